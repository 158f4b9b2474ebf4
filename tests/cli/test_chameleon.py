"""The recipe of one vocabulary, small: a tokenizer's run adopted, trained, asked, scored and made to draw."""

import json

import pytest
from PIL import Image

from foveal.cli import _recipe
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.front import load
from tests.tiny import tiny_painter, tiny_run

SMALL = ["model.language.width=32", "model.language.depth=1", "model.language.heads=2", "model.language.inner=32"]
SMALL += ["data.count=20", "data.portraits.size=24", "training.stages.0.steps=2", "training.stages.0.batch_size=4"]


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_painter(["a"]).save(tmp_path / "vq")


def test_the_recipe_trains_over_a_tokenizers_run(tokenizer, tmp_path, capsys):
    assert run(["train", "chameleon", f"init.vision={tokenizer}", *SMALL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made, source = load(told["run"]), load(tokenizer)
    for name, weight in source.model.vision.state_dict().items():
        assert weight.equal(made.model.vision.state_dict()[name])
    assert made.model.picture_words.tolist() == list(range(128, 140)) and made.model.language.vocabulary == 140
    assert made.processor.transform == source.processor.transform
    assert run(["draw", "Draw a fox on blue.", "--run", told["run"], "--out", "fox.png"]) == 0
    with Image.open("fox.png") as drawn:
        assert drawn.size == (16, 16)
    capsys.readouterr()
    assert run(["eval", "--run", told["run"], "--data", told["data"], "--max-new-tokens", "3", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert {*scored["kinds"]} == {"name", "present", "colour"}
    picture = next((tmp_path / "cache").rglob("*.png"))
    assert run(["ask", str(picture), "Which drawing is this?", "--run", told["run"], "--max-new-tokens", "3"]) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["init.vision=nowhere"], "there is no run nowhere; train one with foveal train vq"),
        (["init.vision={plain}"], "holds no image tokenizer; name a run whose vision is vq"),
        (["init.vision={vq}", "model.fusion.first=9"], "images begin at word 9; raise model.fusion.first"),
    ],
)
def test_what_does_not_fit_is_told(tokenizer, tmp_path, capsys, settings, said):
    plain = tiny_run(["a"]).save(tmp_path / "plain")
    filled = [one.format(plain=plain, vq=tokenizer) for one in settings]
    assert run(["train", "chameleon", *SMALL, *filled]) == 2
    assert said in capsys.readouterr().err


def test_data_are_of_one_kind():
    with pytest.raises(InputError, match="'scenes', 'portraits' or 'motion'"):
        _recipe.read("chameleon", ["data.path=x"])


def test_portraits_are_made_from_the_command_line(tmp_path, capsys):
    assert run(["data", "portraits", str(tmp_path / "out"), "--count", "10", "--kinds", "fox, car", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["portraits"]["train"] == 8
    assert run(["data", "portraits", str(tmp_path / "other"), "--kinds", "fox,foks"]) == 2
    assert "unknown drawing 'foks'" in capsys.readouterr().err
