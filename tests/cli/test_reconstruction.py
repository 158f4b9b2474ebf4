"""The recipe of the image tokenizer, small: trained, scored by itself, and given to what draws with it."""

import json
from pathlib import Path

import pytest

from foveal.cli import _classes
from foveal.cli.main import run
from foveal.front import load

SMALL = ["model.vision={name: vq, codes: 12, width: 8, latent: 4, base: 32, multiples: [1, 2], blocks: 1, fold: 4}"]
SMALL += ["model.vision.resolution=16", "processor.image.size=16", "data.count=20", "data.portraits.size=24"]
SMALL += ["training.stages.0.steps=3", "training.stages.0.batch_size=4", "training.log_every=1"]


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(["train", "vq", *SMALL, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_tokenizer_is_trained_and_scored(trained, tmp_path, capsys):
    rows = [json.loads(line) for line in (tmp_path / "runs/vq/log.jsonl").read_text().splitlines()]
    assert {"loss_pixels", "loss_commitment", "loss_codebook", "codes_dead", "codes_perplexity"} <= rows[0].keys()
    assert rows[0]["codes_dead"] > 6 and rows[2]["codes_dead"] == 0 and rows[0]["examples_per_second"] > 0
    assert load(trained["run"]).model.usage.any()
    assert run(["eval", "--run", trained["run"], "--data", trained["data"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 2 and told["codes_a_picture"] == 4 and told["codes"] == 12  # each picture once
    assert 0 < told["worst"] <= told["psnr"] < 40 and 1 <= told["perplexity"] <= told["used"] <= 8
    assert run(["eval", "--run", trained["run"], "--data", trained["data"]]) == 0
    assert f"PSNR {told['psnr']:.2f} dB, the mean over 2 pictures" in capsys.readouterr().out


def test_its_codes_are_classes_of_what_another_model_hides(trained):
    teller = _classes.Tokenizer(trained["run"], load(trained["run"]).processor)
    assert teller.count == 12 and teller.transform.size == 16
    images = sorted(str(path) for path in (Path(trained["data"]) / "images").iterdir())[:3]
    told = teller(teller.transform.pixels(images))
    assert told.layout.grids == ((2, 2),) * 3 and teller.told(told.features).sum(1).eq(1).all()


def test_it_answers_nothing_and_draws_for_those_that_do(trained, capsys):
    assert run(["draw", "a fox", "--run", trained["run"]]) == 2
    assert "this run is an image tokenizer" in capsys.readouterr().err
    small = ["model.language.width=32", "model.language.depth=1", "model.language.heads=2", "model.language.inner=32"]
    small += ["data.count=20", "data.portraits.size=24", "training.stages.0.steps=1"]
    assert run(["train", "chameleon", f"init.vision={trained['run']}", *small]) == 0
    assert load("runs/chameleon").model.fusion.codes == 12


def test_bad_input_is_told(trained, capsys):
    assert run(["eval", "--run", trained["run"], "--data", trained["data"], "--limit", "0"]) == 2
    assert "holds no pictures in its split 'test'" in capsys.readouterr().err
    assert run(["eval", "--run", trained["run"], "--data", trained["data"], "--temperature", "1"]) == 2
    capsys.readouterr()
    assert run(["train", "vq", *SMALL, "training.stages.0.objective=next_token", "--fresh"]) == 2
    assert "train it by the objective 'reconstruct'" in capsys.readouterr().err
