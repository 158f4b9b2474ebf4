"""A training of several processes, as a launcher starts them, and what one by itself is told."""

import pytest
import torch

import foveal
from foveal.cli.main import run
from tests.cli.test_train import TINY, log, write
from tests.launcher import two_processes


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


def test_one_process_is_told_that_it_shares_nothing(home, capsys):
    assert run(["train", "tiny.yaml", "training.zero=2", "training.stages.0.steps=1"]) == 0
    assert "training.zero=2: one process alone has none to share with" in capsys.readouterr().err
