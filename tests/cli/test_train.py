"""`foveal train`, as a user runs it: on a small data set of their own, through the command line."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
import yaml

import foveal
from foveal.cli import _recipe, train
from foveal.cli._training import Batches, merged
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.models import assembly
from foveal.models.config import ModelConfig

TINY = {
    "system": "llava",
    "model": {
        "vision": {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16},
        "connector": "linear",
        "language": {"name": "decoder", "width": 16, "depth": 1, "heads": 2, "inner": 32},
        "head": {"name": "language_model", "tied": True},
    },
    "processor": {"image": {"size": 16, "mode": "square"}},
    "training": {
        "device": "cpu",
        "log_every": 1,
        "features": {"dtype": "fp32"},
        "stages": [
            {"name": "align", "steps": 3, "train": ["connector"], "batch_size": 4},
            {
                "name": "tune",
                "epochs": 2.0,
                "batch_size": 6,
                "objective": {"name": "joint", "cells": 0.5},
                "group": True,
                "rate": 1e-2,
            },
        ],
    },
}
TINY["model"]["vision"]["layers"] = [-1]


@pytest.fixture
def home(painted):
    """A directory with data, a recipe, and caches of its own."""
    write({**TINY, "data": {"path": str(painted / "data")}})
    return painted


def write(recipe):
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))


def log(place):
    return [json.loads(line) for line in Path(place, "log.jsonl").read_text().splitlines()]


def refused(capsys, *arguments):
    assert run(["train", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("foveal: ")
    return lines[-1]


def test_a_recipe_becomes_a_run_that_answers(home, capsys):
    assert run(["train", "tiny.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told | {"seconds": 0, "loss": 0} == {
        "run": "runs/tiny",
        "data": str(home / "data"),
        "recipe": "tiny",
        "resumed_from": 0,
        "steps": 5,
        "seconds": 0,
        "loss": 0,
    }
    trained = foveal.load("runs/tiny")
    assert trained.about["stages"][0] == {"name": "align", "train": ["connector"]}
    assert "path" in trained.about["data"]
    answer = trained.answer("data/0.png", "what colour is it", max_new_tokens=4)
    assert answer.visual_tokens == 4
    assert len(list((home / "cache" / "foveal" / "features").iterdir())) == 1
    assert [row["stage"] for row in log("runs/tiny")] == ["align"] * 3 + ["tune"] * 2
    assert all(row["learning_rate"] > 0 for row in log("runs/tiny"))  # that of the step, not of the one to come
    assert run(["train", "tiny.yaml", "--json"]) == 0  # nothing is left to do, and what was told stays
    assert json.loads(capsys.readouterr().out)["loss"] == told["loss"] == foveal.load("runs/tiny").about["loss"]


def test_the_same_command_goes_on_after_ctrl_c_to_the_same_weights(home, capsys, monkeypatch):
    assert run(["train", "tiny.yaml", "--out", "whole"]) == 0
    make, made = Batches.__call__, []

    def interrupted(self, stage):
        collate = make(self, stage)

        def once(groups, place):
            made.append(groups)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return collate(groups, place)

        return once

    monkeypatch.setattr(Batches, "__call__", interrupted)
    monkeypatch.setattr("sys.argv", ["foveal", "train", "tiny.yaml", "--out", "[parts] dir", "--fresh"])
    assert run(["train", "tiny.yaml", "--out", "[parts] dir", "--fresh"]) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("its checkpoint is written; go on with: foveal train tiny.yaml --out '[parts] dir'")
    assert not Path("[parts] dir/config.yaml").exists()
    assert run(["train", "tiny.yaml", "--out", "[parts] dir"]) == 0
    assert "resuming at step" in capsys.readouterr().err
    whole, parts = (foveal.load(place).state_dict() for place in ("whole", "[parts] dir"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_hugging_face_data_set_is_trained_on_and_scored(home, capsys):
    from datasets import Dataset, Image, List
    from PIL import Image as Picture

    for number in range(6):  # in a table pictures of the same bytes are one
        picture = Picture.open(f"data/{number}.png")
        picture.putpixel((0, 0), (number, 0, 0))
        picture.save(f"data/{number}.png")
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    columns = {"images": [[f"data/{name}" for name in row["images"]] for row in rows]}
    columns |= {name: [row.get(name) for row in rows] for name in ("id", "messages", "boxes", "meta")}
    Dataset.from_dict(columns).cast_column("images", List(Image())).save_to_disk("saved")
    assert "features are cached for image files alone; give paths, or training.features=null" in refused(
        capsys, "tiny.yaml", "--data", "saved"
    )
    assert run(["train", "tiny.yaml", "--data", "saved", "training.features=null"]) == 0
    assert run(["train", "tiny.yaml", "--out", "lines", "training.features=null"]) == 0
    tables, lines = (foveal.load(place).state_dict() for place in ("runs/tiny", "lines"))
    assert all(torch.equal(tables[name], lines[name]) for name in lines)
    capsys.readouterr()
    assert run(["eval", "--run", "lines", "--data", "saved", "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == len(rows)


def test_text_only_trains_the_same_recipe_without_images(home, capsys):
    assert run(["train", "tiny.yaml", "--text-only", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text_only"]["run"] == "runs/tiny/text_only"
    blind = foveal.load("runs/tiny/text_only")
    assert blind.model.vision is None
    assert blind.answer(None, "what colour is it", max_new_tokens=2).visual_tokens == 0
    steps = [row["stage"] for row in log("runs/tiny/text_only")]
    assert steps == ["tune"] * 2, "a stage of the connector alone has nothing to train"


def test_an_encoder_with_adapters_learns_and_is_read_from_no_cache(home):
    stage = {"name": "adapt", "steps": 3, "batch_size": 4, "train": [], "lora": {"part": "vision", "rank": 2}}
    write({**TINY, "data": {"path": "data"}, "training": {**TINY["training"], "stages": [stage]}})
    assert run(["train", "tiny.yaml", "training.stages.0.rate=0.1", "--out", "high"]) == 0
    assert run(["train", "tiny.yaml", "training.stages.0.rate=1e-6", "--out", "low"]) == 0
    high, low = (foveal.load(name).model.vision.state_dict() for name in ("high", "low"))
    moved = {name for name in high if not torch.allclose(high[name], low[name], atol=1e-3)}
    assert moved == {f"blocks.0.attention.{name}.weight" for name in ("query", "value")}
    assert not (home / "cache" / "foveal" / "features").exists()


def test_adapters_of_an_encoder_go_with_it():
    adapts = {"steps": 1, "lora": {"part": "vision"}}
    stages = [{**adapts, "name": "a", "train": ["connector"]}, {**adapts, "name": "b", "train": ["language"]}]
    recipe = {**TINY, "data": {"path": "x"}, "text_only": True, "training": {"stages": stages}}
    (left,) = _recipe.of(recipe, name="x").training.stages
    assert (left.name, left.train, left.lora) == ("b", ("language",), None)


def test_settings_over_the_recipe(home):
    assert run(["train", "tiny.yaml", "training.stages.0.steps=1", "training.stages.1.epochs=1", "seed=3"]) == 0
    trained = foveal.load("runs/tiny")
    assert (trained.about["steps"], trained.about["seed"]) == (2, 3)


def test_a_run_can_be_what_the_next_one_starts_from(home):
    assert run(["train", "tiny.yaml"]) == 0
    stage = {"steps": 1, "train": ["language"], "processor": {"image": {"mode": "letterbox"}}}
    later = {"init": {"from": "runs/tiny"}, "data": {"path": "data"}, "training": {"device": "cpu", "stages": [stage]}}
    write(later)
    assert run(["train", "tiny.yaml", "--out", "later"]) == 0
    first, second = foveal.load("runs/tiny"), foveal.load("later")
    assert torch.equal(first.model.connector.map.weight, second.model.connector.map.weight)
    assert not torch.equal(first.model.language.norm.weight, second.model.language.norm.weight)
    assert second.processor.config.image.mode == "letterbox"
    second.model.bfloat16()
    second.save("half")
    write({**later, "init": {"from": "half"}})
    assert run(["train", "tiny.yaml", "--out", "from_half"]) == 0
    assert {weight.dtype for weight in foveal.load("from_half").model.parameters()} == {torch.float32}
    write({**later, "text_only": True})
    assert run(["train", "tiny.yaml", "--out", "blind"]) == 0
    assert foveal.load("blind").model.vision is None


def test_a_run_of_several_levels_goes_on_without_images(home):
    vision = {**TINY["model"]["vision"], "levels": [1]}
    model = {**TINY["model"], "vision": vision, "fusion": {"name": "deepstack", "after": [0]}}
    stage = {"steps": 1, "train": ["language"]}
    training = {"device": "cpu", "stages": [stage]}
    write({**TINY, "model": model, "data": {"path": "data"}, "training": training})
    assert run(["train", "tiny.yaml"]) == 0
    write({"init": {"from": "runs/tiny"}, "data": {"path": "data"}, "text_only": True, "training": training})
    assert run(["train", "tiny.yaml", "--out", "blind"]) == 0
    assert foveal.load("blind").model.vision is None


def test_starter_scenes_are_made_once(home, capsys):
    write({**TINY, "data": {"scenes": {"size": 64, "drawings": 20, "words": 20, "max_drawings": 2}, "count": 10}})
    assert run(["train", "tiny.yaml", "training.stages.1.epochs=1", "--json"]) == 0
    first = capsys.readouterr()
    assert "making 10 scenes" in first.err
    assert run(["train", "tiny.yaml", "training.stages.1.epochs=1", "--fresh"]) == 0
    assert "making" not in capsys.readouterr().err
    assert Path(json.loads(first.out)["data"]).parent == home / "cache" / "foveal" / "scenes"


def test_mistakes_are_told_in_one_line(home, capsys):
    assert "unknown recipe 'startr'; did you mean 'starter'" in refused(capsys, "startr")
    assert "there is no recipe file absent.yaml" in refused(capsys, "absent.yaml")
    for setting, message in (
        ("trainin.seed=1", "unknown key"),
        ("training.stags=1", "did you mean 'stages'"),
        ("training.stages.0.steps=many", "give it a value of type int"),
        ("model.connector=mpl", "unknown component of connectors 'mpl'; did you mean 'mlp'"),
        ("processor.template=plane", "did you mean 'plain'"),
        ("processor.imag=1", "did you mean 'image'"),
        ("data.path=nowhere", "no data at nowhere"),
        ("data.scenes={}", "'scenes', 'portraits' or 'motion' (made here) or a 'path'"),
        ("training.stages.0.train=[vison]", "did you mean 'vision'"),
        ("model.language.vocabulary=5", "leave model.language.vocabulary out"),
        ("model.language.context=10", "tokens, and model.language.context is 10: it could not be answered"),
        ("name=other", "unknown key in recipe: 'name'"),
        ("init={from: runs/other}", "leave those keys out"),
        ("seed=-1", "seed is -1; give a number from 0"),
        ("model.language.heads=0", "model.language.heads is 0; give 1 or more"),
        ("model.language.context=0", "model.language.context is 0; give 1 or more"),
        ("model.language.depth=-1", "model.language.depth is -1; give 0 or more"),
        ("model.connector={name: conv_mlp, width: 0}", "model.connector.width is 0; give 1 or more"),
        ("model.connector={name: mlp, depth: 0}", "model.connector.depth is 0; give 1 or more"),
        ("model.fusion={name: prefix, places: -1}", "model.fusion.places is -1; give 0 or more"),
        ("model.fusion={name: gated_cross_attention, heads: 0}", "model.fusion.heads is 0; give 1 or more"),
        ("model.vision.patch=0", "model.vision.patch is 0; give 1 or more"),
        (
            "model.fusion={name: gated_cross_attention, heads: 4, kv_heads: 3}",
            "3 kv_heads do not divide 4 heads; give a",
        ),
        (
            "model.connector={name: perceiver, heads: 4, kv_heads: 3}",
            "3 kv_heads do not divide 4 heads; give a divisor",
        ),
        ("model.vision=null", "connector 'linear' has nothing to connect: the model names no vision; name one, or"),
        ("data.path=[data, ./data]", "data.path names data 2 times; name it once"),
        ("data={path: []}", "data.path names no data set; give a directory or a file"),
        ("data.count=-2", "data.count is -2; make 1 or more"),
    ):
        assert message in refused(capsys, "tiny.yaml", setting), setting
    assert not Path("runs/tiny/config.yaml").exists()
    assert _recipe.read("tiny.yaml", data=Path("data")).data.split == "train"
    assert _recipe.read("tiny.yaml", ["data.split=val"], data=Path("elsewhere")).data.split == "val"
    Path("broken.yaml").write_text("a: [")
    assert "broken.yaml is not YAML" in refused(capsys, "broken.yaml")
    Path("list.yaml").write_text("- a")
    assert "holds no mapping" in refused(capsys, "list.yaml")


@pytest.mark.parametrize(
    ("recipe", "question"),
    [
        ("demo", 'PICTURE "What is in the picture?"'),
        ("evidence", 'PICTURE "What is in the picture?"'),
        ("visualbert_vcr", 'PICTURE "What is in the picture? | ANSWER 1 | ANSWER 2 | ANSWER 3 | ANSWER 4"'),
        ("pix2seq", "PICTURE detect"),
        ("flamingo_motion", 'VIDEO "What happens?"'),
        ("blip2_pre", None),
        ("vq", None),
    ],
)
def test_the_next_question_is_one_that_a_run_answers(recipe, question):
    assert train._question(_recipe.read(recipe)) == question


def test_an_answer_that_leaves_the_context_is_learned_from_all_the_same(home):
    line = json.loads((home / "data" / "train.jsonl").read_text().splitlines()[0])
    line["messages"][-1]["content"][0]["text"] = "fox " * 60
    (home / "data" / "train.jsonl").write_text(json.dumps(line) + "\n")
    assert run(["train", "tiny.yaml", "model.language.context=40"]) == 0


def test_a_rate_that_an_older_run_names_for_nothing_does_not_stop_it(home, capsys, monkeypatch):
    useless = "training.stages.0.rates={vision: 1e-3}"
    with monkeypatch.context() as before:
        before.setattr("foveal.training.parts.check", lambda model, stage: None)
        before.setattr("foveal.training.loop.check", lambda model, stage: None)
        assert run(["train", "tiny.yaml", useless]) == 0
    assert run(["train", "tiny.yaml", useless, "training.stages.1.rate=1e-3"]) == 2  # another recipe, told as such
    assert "holds a run with training.stages.1.rate" in capsys.readouterr().err.replace("\n", " ")
    assert run(["train", "tiny.yaml", useless]) == 0
    assert "a rate for vision, of which nothing learns" in refused(capsys, "tiny.yaml", useless, "--fresh")


def test_the_next_command_names_a_split_that_is_there(home, capsys):
    for name, words in (("", None), ("val", "--data {} --split val"), ("test", "--data {}")):
        if name:
            (home / "data" / f"{name}.jsonl").write_text((home / "data" / "train.jsonl").read_text())
        assert run(["train", "tiny.yaml"]) == 0
        told = capsys.readouterr().err.replace("\n", "")
        assert "ask it:" in told and ("score it:" in told) == (words is not None)
        if words is not None:
            assert told.endswith(words.format(shlex.quote(str(home / "data"))))
    assert run(["train", "tiny.yaml", "--out", "runs/[x] y"]) == 0
    told = capsys.readouterr().err
    assert "runs/[x] y: 5 steps" in told and "--run 'runs/[x] y'\n" in told and "--run 'runs/[x] y' --data" in told


def test_a_run_does_not_go_on_with_other_answers(home, capsys):
    assert run(["train", "tiny.yaml"]) == 0
    file = home / "data" / "train.jsonl"
    was = file.read_text()
    file.write_text(was.replace('"red"', '"sea"').replace('"blue"', '"red"').replace('"sea"', '"blue"'))
    assert file.read_text() != was
    assert "runs/tiny was trained on other lines than its data files hold now" in refused(capsys, "tiny.yaml")
    file.write_text(was)
    assert run(["train", "tiny.yaml"]) == 0


def test_tiles_that_the_context_does_not_hold_are_told_before_any_is_encoded(home, capsys):
    cut = ["model.mosaic={}", "processor.image={size: 8, tiling: {kind: grid, tile: 8, most: 3}}"]
    line = refused(capsys, "tiny.yaml", *cut, "processor.context=10")
    told = re.search(r"has (\d+) tokens \(5 of them of images\), but 10 fit; raise the context", line)
    assert told and line.endswith(f"; processor.image.tiling.most=1 makes it {int(told[1]) - 4} tokens")
    assert not (home / "cache" / "foveal" / "features").exists()


def test_a_directory_of_something_else_is_left_alone(home, capsys):
    assert "data holds something else than a training run" in refused(capsys, "tiny.yaml", "--out", "data")
    assert "tiny.yaml is a file" in refused(capsys, "tiny.yaml", "--out", "tiny.yaml")


@pytest.mark.parametrize("name", _recipe.names())
def test_shipped_recipes_read_and_have_a_twin_without_images(name):
    recipe = _recipe.read(name)
    assert recipe.training.stages
    begun = "from" in recipe.init  # with a language model
    writes = any(part.split(".")[0] != "allocator" for stage in recipe.training.stages for part in stage.parts)
    if (begun and writes) or ("language" in recipe.model and recipe.model.get("assembly") != "two_tower"):
        blind = _recipe.blind(recipe)
        assert "vision" not in blind.model
        if not begun:
            assembly.check(ModelConfig.parse(_recipe.worded(blind.model, 50)))
    else:
        with pytest.raises(InputError, match="nothing is left to train"):
            _recipe.blind(recipe)


def test_a_recipe_without_sight_must_leave_something_to_train():
    with pytest.raises(InputError, match="nothing is left to train"):
        _recipe.of({**TINY, "data": {"path": "x"}, "text_only": True, "training": {"stages": [ONLY]}}, name="x")


ONLY = {"steps": 1, "train": ["connector"]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("objective.name=budget", "unknown component of training.objectives 'budget'; did you mean 'budgets'"),
        ("objective.cell=0.5", "unknown key in training.objectives.joint: 'cell'"),
        ("processor={image: {sizes: 32}}", "unknown key in stage tune.processor.image: 'sizes'"),
        ("rates={vision: 1.0e-3}", "has a rate for vision, of which nothing learns"),
        ("lora={part: nope}", "unknown part of the model for lora 'nope'"),
        ("lora={targets: [nope]}", "unknown linear map in language: 'nope'"),
        ("rates={languages: 1.0e-3}", "unknown part of the model 'languages'; did you mean 'language'"),
        ("train=[connecter]", "unknown part of the model 'connecter'; did you mean 'connector'"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_told_before_the_first(home, capsys, wrong, told):
    line = refused(capsys, "tiny.yaml", f"training.stages.1.{wrong}", "--out", "later")
    assert told in line, line
    assert not Path("later").exists()


def test_settings_of_a_stage_lie_over_the_runs_own():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "e": 5}) == {"a": {"b": 4, "c": 2}, "d": 3, "e": 5}
