"""The microscope over every family: what a model cannot tell is a note, and never an error."""

import base64
import json
import threading
import time

import pytest
import torch

from foveal.cli._app_desk import Desk
from foveal.core.errors import InputError
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.weights.run import Run
from tests.tiny import tiny_tokenizer

QUESTION = "Where is the fox"
VIT = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "inner": 16, "patch": 4, "image_size": 16, "layers": [-1]}
ANSWERS = ("yes", "no", "a fox")
LATENTS = {"name": "perceiver", "latents": 6, "depth": 1, "heads": 2, "head_width": 8}
TILED = ImageTransform(size=16, tiling=Tiling(kind="anyres", tile=16, pinpoints=((16, 32), (32, 16), (32, 32))))
FAMILIES = {
    "prefix": {},
    "latents": {"connector": LATENTS},
    "gated": {"connector": LATENTS, "fusion": {"name": "gated_cross_attention", "every": 1, "heads": 2}},
    "thinning": {"fusion": {"name": "dense_sparse"}},
    "tiles": {"mosaic": {"order": "raster", "newline": True}},
    "chosen": {
        "assembly": "masked",
        "fusion": "single_stream",
        "language": {"name": "encoder", "width": 32, "depth": 2, "heads": 2, "inner": 32},
        "heads": {"answer": "classification"},
    },
}  # fmt: skip
NOWHERE = {"gated", "latents"}  # latents lie nowhere
MAPLESS = {*NOWHERE, "tiles"}  # rows of tiles end in newlines, until a budget lays them on one grid


def made(name):
    torch.manual_seed(0)
    tokenizer = word_tokenizer([QUESTION, *ANSWERS])
    settings = ProcessorConfig(
        image=TILED if name == "tiles" else ImageTransform(size=16),
        context=200,
        answers=ANSWERS if name == "chosen" else None,
    )
    parts = dict(FAMILIES[name])
    language = {"name": "decoder", "width": 32, "depth": 3, "deviation": 0.5} | parts.pop("language", {})
    if name == "chosen":
        language.pop("deviation")
        parts["heads"] = {"answer": {"name": "classification", "labels": len(ANSWERS)}}
    config = {"vision": VIT, "connector": "linear", **parts, "language": {**language, "vocabulary": len(tokenizer)}}
    return Run(assemble(ModelConfig.parse(config)).eval(), Processor(tokenizer=tokenizer, config=settings))


@pytest.fixture
def picture(tiny):
    return base64.b64encode(tiny.picture.read_bytes()).decode()


def asked(desk, picture, **settings):
    return desk.ask(json.dumps({"picture": picture, "question": QUESTION, "max_new_tokens": 3, **settings}).encode())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_shown(name, picture):
    desk = Desk({name: made(name)})
    whole = asked(desk, picture)
    assert whole["answer"] == whole["all"]["answer"] and whole["seconds"] > 0
    shown = {(p["group"], p["name"]): p for p in whole["panels"]}
    assert sum(group == "texture" for group, _ in shown) == 13
    assert all(p["src"] or p["note"] for p in shown.values())
    assert (("knowing", "relevance") in shown) == (name not in MAPLESS) == (whole["notes"] == [])
    assert bool(shown["tokens", "partition"]["src"]) == (name not in NOWHERE)


@pytest.mark.parametrize("name", ["prefix", "latents", "tiles", "chosen", "thinning"])
def test_a_budget_is_kept(name, picture):
    told = asked(Desk({name: made(name)}), picture, budget=3)
    assert told["visual_tokens"] == 3 < told["all"]["visual_tokens"]
    assert all(p["src"] or p["note"] for p in told["panels"]) and told["notes"] == []
    assert "relevance" in {p["name"] for p in told["panels"]}


def test_a_strategy_within_the_model_shows_why_it_has_no_map(picture):
    told = asked(Desk({"run": made("prefix")}), picture, budget=3, strategy="fastv")
    attention = next(p for p in told["panels"] if p["name"] == "attention")
    assert attention["src"] is None and "no map" in attention["note"]


def test_a_price_wants_a_grid(picture):
    with pytest.raises(InputError, match="price wants tokens on a grid"):
        asked(Desk({"run": made("latents")}), picture, price=1.0)


def test_a_run_that_answers_nothing_is_refused():
    with pytest.raises(InputError, match="mine is not asked in words"):
        Desk({"mine": tiny_tokenizer()})


def test_what_a_page_no_longer_wants_to_know_is_not_answered(picture):
    desk = Desk({"prefix": made("prefix")})

    def ask(**more):
        return desk.ask(json.dumps({"picture": picture, "question": QUESTION, **more}).encode())

    replies = {}
    with desk._turn:  # someone is being answered
        threads = [
            threading.Thread(target=lambda turn=turn: replies.update({turn: ask(page="a", turn=turn)}))
            for turn in (1, 2)
        ]
        for thread in threads:
            thread.start()
        while desk._last.get("a") != 2:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert replies[1] == {"superseded": True} and "answer" in replies[2]
    assert "answer" in ask(page="b", turn=1) and "answer" in ask(page="a", turn=2) and "answer" in ask()
    assert ask(page="a", turn=1) == {"superseded": True}
    with pytest.raises(InputError, match="turn of -1"):
        ask(turn=-1)
