import json
from pathlib import Path

import pytest
import yaml

from foveal.cli import _held_out, _recipe
from foveal.cli._held_out import Held
from foveal.cli._show import no_bar
from foveal.cli.main import run
from foveal.core.errors import InputError
from tests.cli.test_train import TINY


@pytest.fixture
def trained(painted):
    """A run of one step at a rate of next to nothing, whose batch was all there is to learn from."""
    stage = {"name": "learn", "steps": 1, "batch_size": 12, "rate": 1e-30, "weight_decay": 0.0}
    recipe = {**TINY, "data": {"path": "data"}, "training": {**TINY["training"], "stages": [stage]}}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    rows = Path("data/train.jsonl").read_text().splitlines()
    Path("data/val.jsonl").write_text("\n".join(reversed(rows)))
    assert run(["train", "tiny.yaml", "--out", "run"]) == 0
    return _recipe.read("tiny.yaml")


def score(recipe, metric, **held):
    return _held_out.scored(
        Path("run"), Held(**held), metric, folder=Path("data"), recipe=recipe, progress=no_bar
    )  # fmt: skip


def test_the_loss_is_that_of_the_training(trained):
    (row,) = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    found = score(trained, "loss")
    assert found["score"] == pytest.approx(row["loss"], abs=1e-5) and found["interval"] is None
    assert found == score(trained, "loss")
    assert score(trained, "loss", limit=4)["told"]["visits"] == 4


@pytest.mark.parametrize(("metric", "name"), [("exact_match", "exact_match"), ("mean_over_kinds", "mean_over_kinds")])
def test_answers_are_scored_as_eval_scores_them(trained, capsys, metric, name):
    capsys.readouterr()
    assert run(["eval", "--run", "run", "--data", "data", "--split", "val", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = score(trained, metric)
    assert found["score"] == told[name] and found["told"]["kinds"] == told["kinds"]
    assert found["interval"] == told["interval" if name == "exact_match" else f"{name}_interval"]


def test_a_metric_of_a_field_is_its_first_figure(trained, capsys):
    capsys.readouterr()
    assert run(["eval", "--run", "run", "--data", "data", "--split", "val", "--metric", "anls", "--json"]) == 0
    first = next(iter(json.loads(capsys.readouterr().out)["figures"].values()))
    found = score(trained, "anls")
    assert (found["score"], found["interval"]) == (first["value"], first["interval"])


@pytest.mark.parametrize(
    ("recipe", "way", "metric"),
    [
        ("demo", "answers", "exact_match"),
        ("visualbert", "answers", "vqa"),
        ("pix2seq", "boxes", "AP"),
        ("vq", "pictures", "psnr"),
        ("blip2_pre", "pretraining", "loss"),
    ],
)
def test_a_metric_fits_what_is_scored_of_a_recipe(recipe, way, metric):
    read = _recipe.read(recipe)
    assert _held_out.way(read) == way
    _held_out.check_metric(metric, read)
    _held_out.check_metric("loss", read)
    with pytest.raises(InputError, match=f"unknown metric of {recipe}, where "):
        _held_out.check_metric("psnr" if metric != "psnr" else "AP", read)


def test_a_run_that_is_gone_on_with_tells_what_is_scored(trained):
    later = {"init": {"from": "run"}, "data": {"path": "data"}, "training": {"stages": [{"steps": 1}]}}
    assert _held_out.way(_recipe.of(later, name="later")) == "answers"


def test_held_out_data_may_lie_elsewhere_and_hold_something(trained):
    Path("other").mkdir()
    for picture in Path("data").glob("*.png"):
        Path("other", picture.name).write_bytes(picture.read_bytes())
    Path("other/val.jsonl").write_text(Path("data/val.jsonl").read_text())
    there = Held(path="other")
    _held_out.check_apart(trained, Path("data"), {"evaluation": there})
    found = _held_out.scored(Path("run"), there, "loss", folder=Path("data"), recipe=trained, progress=no_bar)
    assert found["score"] == score(trained, "loss")["score"]
    Path("same.jsonl").write_text(Path("data/train.jsonl").read_text())
    with pytest.raises(InputError, match="which holds what training is on"):
        _held_out.check_apart(trained, Path("data"), {"evaluation": Held(path="same.jsonl")})
    with pytest.raises(InputError, match="which holds what evaluation is on"):
        _held_out.check_apart(trained, Path("data"), {"evaluation": there, "test": Held()})
    for wrong in ({"limit": 0}, {"batch": 0}):
        with pytest.raises(InputError, match="give 1 or more"):
            Held(**wrong)
