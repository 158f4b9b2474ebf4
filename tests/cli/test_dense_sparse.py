"""The recipe `dense_sparse` made small: it trains in rows of many questions, tells its plan, and answers by its run."""

import json
from pathlib import Path

import torch
import yaml

import foveal
from foveal.cli import _recipe
from foveal.cli.main import run
from foveal.core.config import dump

SMALL = {
    "vision": {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16},
    "connector": {"name": "conv_mlp", "kernel": 3, "width": 8},
}


def small(**fusion):
    """The shipped recipe with smaller parts, pictures and stages."""
    given = dump(_recipe.read("dense_sparse"))
    model = {**given["model"], **SMALL, "fusion": {**given["model"]["fusion"], **fusion}}
    model["language"] = {**model["language"], "width": 16, "heads": 2, "inner": 24}
    processor = {**given["processor"], "image": {"size": 16, "mode": "square"}}
    stages = [
        {**stage, "steps": 3, "minutes": None, "batch_size": 2, "precision": "fp32", "kinds": {}}
        for stage in given["training"]["stages"]
    ]
    training = {"device": "cpu", "stages": stages, "features": {"dtype": "fp32"}}
    kept = {name: given[name] for name in ("system", "family", "paper", "seed")}
    return {**kept, "model": model, "init": {}, "processor": processor, "data": {"path": "data"}, "training": training}


def test_it_trains_and_answers(painted, capsys):
    Path("tiny.yaml").write_text(yaml.safe_dump(small()))
    assert run(["train", "tiny.yaml"]) == 0
    told = "".join(capsys.readouterr())
    assert "see: visual tokens by layer: 16, 16, 8, 4" in told and "answer: visual tokens" in told
    log = [json.loads(line) for line in Path("runs/tiny/log.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in log} == {"see", "answer"} and "loss_cells" in log[-1]
    model = foveal.load("runs/tiny")
    assert model.answer("data/0.png", "what colour is it").visual_tokens == 16
    fresh = foveal.build({"model": small()["model"] | {"language": model.model.config.dump()["language"]}}).model
    assert not torch.equal(fresh.fusion.scorers["2"].norm.weight, model.model.fusion.scorers["2"].norm.weight)


def test_a_run_that_grew_sparser_is_saved_with_its_plan(painted, capsys):
    recipe = small(by="norm")
    for stage in recipe["training"]["stages"]:
        stage["train"] = ["connector", "language"]
    recipe["training"]["stages"][1]["then"] = [{"at": 0.5, "train": ["language"]}]
    recipe["training"] |= {"sparser": {"curve": "linear", "end": 1.0}, "keep_stages": True, "log_every": 1}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml"]) == 0
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "by layer" in line]
    assert said[0] == "see: visual tokens by layer: 16, 16, 16, 16 at first, in the end 16, 16, 12, 10"
    assert said[1:] == 2 * ["answer: visual tokens by layer: 16, 16, 12, 10 at first, in the end 16, 16, 8, 4"]
    log = [json.loads(line) for line in Path("runs/tiny/log.jsonl").read_text().splitlines()]
    assert [row.get("tokens_layer_3") for row in log] == [None, None, None, 10, 8, 6]  # cells runs no layers
    for saved in ("runs/tiny", "runs/tiny/stages/see"):
        assert foveal.load(saved).model.plan_by_layer([(16, 16)]) == (16, 16, 8, 4)
    assert foveal.load("runs/tiny").about["stages"][1]["train"] == ["connector", "language"]


def test_the_twin_without_images_thaws_what_is_left(painted):
    recipe = small()
    recipe["training"]["stages"][1] |= {
        "train": ["connector"],
        "then": [{"at": 0.5, "train": ["connector", "language"]}],
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    blind = _recipe.read("tiny.yaml", ["text_only=true"]).training.stages[-1]
    assert (blind.train, blind.then) == (("language",), ())
    assert run(["train", "tiny.yaml", "text_only=true"]) == 0


def test_questions_in_one_row_cannot_each_keep_other_tokens(painted, capsys):
    Path("tiny.yaml").write_text(yaml.safe_dump(small(by="attention")))
    assert run(["train", "tiny.yaml"]) == 2
    assert "set group to false" in capsys.readouterr().err


def test_one_question_a_row_may(painted):
    recipe = small(by="attention")
    recipe["training"]["stages"] = [{"name": "answer", "steps": 2, "batch_size": 2}]
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml"]) == 0


def test_its_twin_without_images_trains(painted):
    Path("tiny.yaml").write_text(yaml.safe_dump(small()))
    assert run(["train", "tiny.yaml", "text_only=true"]) == 0
