"""Drawings scored by a classifier that learned from other pictures of the same things."""

import json

import pytest

from foveal.cli import _drawings
from foveal.cli.main import run
from foveal.data.portraits import PortraitConfig, portrait, write_portraits
from tests.tiny import tiny_painter

CONFIG = PortraitConfig(seed=3, size=48, kinds=("fox", "car", "frog"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_drawings, "PORTRAITS", 6)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings") / "portraits"
    write_portraits(folder, CONFIG, count=30)
    return folder


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return tiny_painter(["draw a fox car frog on show me white yellow green blue pink drawing of"]).save(
        tmp_path_factory.mktemp("painter") / "run"
    )


def unseen(what, total):
    from contextlib import nullcontext

    return nullcontext(lambda number: None)


def test_the_classifier_knows_portraits_of_other_seeds_and_what_is_none_of_them():
    judge = _drawings.Judge(CONFIG, apart_from=(3, 9), progress=unseen)
    assert judge.about == {"seed": 1_000_009, "portraits": 36}
    shown = [portrait(CONFIG, number) for number in range(15)]
    said = judge([one.image for one in shown])
    assert sum(one.name == told for one, told in zip(shown, said, strict=True)) >= 13
    strange = PortraitConfig(seed=3, size=48, kinds=("whale", "castle", "key", "heart"))
    assert judge([portrait(strange, number).image for number in range(8)]).count(_drawings.OTHER) >= 5


def test_drawings_are_counted_the_same_each_time(painter, portraits, tmp_path, capsys):
    command = ["eval", "--run", str(painter), "--data", str(portraits), "--split", "train", "--drawings", "5"]
    told = []
    for _ in range(2):
        assert run([*command, "--json", "--out", str(tmp_path / "sheet.png")]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] and told[0]["drawings"] == 5 and set(told[0]["kinds"]) == {"fox", "car", "frog"}
    assert told[0]["recognised"] <= 0.6  # noise is nothing in particular
    judge = told[0]["classifier"]
    assert judge["true_pictures"] >= 0.8 and 0 <= judge["through_codes"] <= 1 and judge["seed"] == 1_000_003
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert run(command) == 0
    assert "of 5 drawings recognised" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "{portraits}", "--drawings", "0"], "--drawings 0 leaves nothing to draw"),
        (["--data", "{tiny}", "--drawings", "2"], "holds no portraits"),
        (["--data", "{portraits}", "--drawings", "1", "--out", "nowhere/x.png"], "cannot write nowhere/x.png"),
    ],
)
def test_what_cannot_be_scored_is_told(painter, portraits, tiny, capsys, arguments, said):
    filled = [one.format(portraits=portraits, tiny=tiny.data) for one in arguments]
    assert run(["eval", "--run", str(painter), "--split", "train", *filled]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_writes_words_alone_is_told(portraits, tiny, capsys):
    assert run(["eval", "--run", str(tiny.run), "--data", str(portraits), "--drawings", "1"]) == 2
    assert "writes words alone" in capsys.readouterr().err
