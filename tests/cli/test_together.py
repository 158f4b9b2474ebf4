"""A training of several processes, as a launcher starts them, and what one by itself is told."""

import pytest
import torch

import foveal
from foveal.cli.main import run
from tests.cli.test_train import TINY, log, write
from tests.launcher import processes, two_processes


@pytest.fixture
def home(painted):
    """A directory with data, a recipe, and caches of its own."""
    write({**TINY, "data": {"path": str(painted / "data")}})
    return painted


@pytest.mark.parametrize("zero", [0, 3])
def test_two_processes_train_as_one(home, capsys, monkeypatch, zero):
    """A step of two processes with half the batch each is the step of one, and no process says twice what it does."""
    settings = [f"training.stages.{stage}.batch_size={{0}}" for stage in (0, 1)]
    assert run(["train", "tiny.yaml", *(setting.format(6) for setting in settings)]) == 0
    told = capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other"))  # an encoder's features are computed there again
    halves = [setting.format(3) for setting in settings]
    both = two_processes("train", "tiny.yaml", "--out", "two", f"training.zero={zero}", *halves)
    assert both.count("ask it:") == told.count("ask it:") == 1
    torch.testing.assert_close([row["loss"] for row in log("two")], [row["loss"] for row in log("runs/tiny")])
    one, two = (foveal.load(place).state_dict() for place in ("runs/tiny", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_two_pipelines_of_two_processes_train_as_one(home, capsys, monkeypatch):
    settings = ["model.language.depth=3", "training.stages.1.objective=next_token", "training.stages.0.accumulate=2"]
    sizes = [f"training.stages.{stage}.batch_size={{0}}" for stage in (0, 1)]
    assert run(["train", "tiny.yaml", *settings, *(size.format(6) for size in sizes)]) == 0
    told = capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other"))
    settings += ["training.pipeline=2", *(size.format(3) for size in sizes)]
    both = processes(4, "train", "tiny.yaml", "--out", "two", *settings)
    assert both.count("ask it:") == told.count("ask it:") == 1
    assert both.count("a step of stage tune has fewer micro-batches") == 1
    for name in ("loss", "gradient_norm"):
        one, two = ([row[name] for row in log(place)] for place in ("runs/tiny", "two"))
        assert one == pytest.approx(two)
    one, two = (foveal.load(place).state_dict() for place in ("runs/tiny", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_one_process_makes_no_pipeline(home, capsys):
    assert run(["train", "tiny.yaml", "training.pipeline=2", "--out", "none"]) == 2
    told = capsys.readouterr().err
    assert "training.pipeline is 2, and this is a training of 1 process" in told and told.count("\n") == 1
    assert not (home / "none").exists()


def test_two_processes_split_layers_of_one_training(home, capsys, monkeypatch):
    """They see what one sees, batch by batch, and write the run and the log that it writes."""
    assert run(["train", "tiny.yaml"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other"))
    told = two_processes("train", "tiny.yaml", "--out", "two", "training.tensor=2")
    assert told.count("ask it:") == 1 and "stay whole" not in told
    torch.testing.assert_close([row["loss"] for row in log("two")], [row["loss"] for row in log("runs/tiny")])
    one, two = (foveal.load(place).state_dict() for place in ("runs/tiny", "two"))
    assert one.keys() == two.keys() and all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    capsys.readouterr()
    assert run(["train", "tiny.yaml", "--out", "two"]) == 0  # the same training, at its end
    assert run(["train", "tiny.yaml", "training.tensor=2"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("foveal: training.tensor is 2, and this is one process; start 2")


def test_one_process_is_told_that_it_shares_nothing(home, capsys):
    assert run(["train", "tiny.yaml", "training.zero=2", "training.stages.0.steps=1"]) == 0
    assert "training.zero=2: one process alone has none to share with" in capsys.readouterr().err
