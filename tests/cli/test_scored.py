"""What `eval` scores of each kind of run: options that say nothing about it are refused."""

import pytest

from foveal.cli import _regions, _scored, _training
from foveal.cli.main import run
from foveal.core.errors import InputError

CONFIGS = {
    "boxes": "model: {assembly: seq2seq}\nprocessor: {detection: {bins: 17}}\n",
    "pictures": "model: {assembly: autoencoder}\n",
    "pairs": "model: {assembly: two_tower}\n",
    "words": "model: {assembly: causal}\n",
}


@pytest.fixture
def runs(tmp_path):
    for name, config in CONFIGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"foveal: 1\n{config}")
    return tmp_path


def way(run, *, drawn=False, spent=False, **given):
    return _scored.way(run, {"pretraining": False, **given}, drawn=drawn, spent=spent)


def test_a_run_is_scored_in_its_way(runs):
    assert way(runs / "boxes", spent=True) == "boxes" and way(runs / "pictures") == "pictures"
    assert way(runs / "words") == way(None) == "answers" and way(runs / "words", spent=True) == "budgets"
    assert way(runs / "words", pretraining=True) == way(runs / "pairs", pretraining=True) == "pretraining"
    assert way(runs / "words", drawn=True, out="sheet.png") == "drawings"
    assert way(runs / "boxes", out="found.json") == "boxes" and way(None, report="r.html") == "answers"
    assert way(None, spent=True, controls=True, draws=True) == "budgets"


def test_a_checkpoint_beside_anothers_config_yaml_is_asked_as_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("lora: 1\n")
    assert way(tmp_path) == "answers" and _scored.option(tmp_path) == ""
    assert _regions.source(tmp_path) == "grid" and _training._last_loss(tmp_path) is None


def test_a_run_of_pairs_answers_nothing(runs, capsys):
    for spent in (False, True):
        with pytest.raises(InputError, match="answers no question; score it with foveal eval --pretraining"):
            way(runs / "pairs", spent=spent)
    assert run(["eval", "--run", str(runs / "pairs"), "--data", "data"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("words", ["--budget", "8", "--report", "r.html"], "--report is a page of answers with all tokens"),
        ("words", ["--pretraining", "--report", "r.html"], "here the tasks of pretraining are scored; leave it out"),
        ("boxes", ["--report", "r.html"], "and here boxes are scored"),
        ("pictures", ["--report", "r.html"], "and here pictures are brought back"),
        ("words", ["--results", "r.json"], "--out holds drawings or found boxes, and here answers in words"),
        ("words", ["--budget", "8", "--out", "r.json"], "--out holds drawings or found boxes"),
        ("boxes", ["--pretraining"], "--pretraining scores what a pretrained encoder tells, and here boxes"),
        ("pictures", ["--pretraining"], "--pretraining scores what a pretrained encoder tells"),
        ("boxes", ["--budget", "8", "--controls"], "--controls is of answers under a budget"),
        ("boxes", ["--budget", "8", "--draws", "2"], "--draws is of answers under a budget"),
    ],
)
def test_options_that_say_nothing_are_refused(runs, capsys, name, options, said):
    assert run(["eval", "--run", str(runs / name), "--data", "data", *options]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
