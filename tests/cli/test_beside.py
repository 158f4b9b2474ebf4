"""What is trained beside something else is found afterwards as if it had been trained alone."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.cli import _beside, _recipe, _show, _training
from foveal.cli.main import run
from tests.cli.test_compare import COMPARISON, RECIPE

FIRST = """
import time
from pathlib import Path
import torch
from foveal.cli import _beside, _recipe
if __name__ == "__main__":
    torch.set_num_threads(2)
    with _beside.beside(_recipe.read("long.yaml", ["training.checkpoint_minutes=60"]), Path("other")):
        time.sleep(600)
"""


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(painted):
    Path("late.yaml").write_text(RECIPE.format(family="late", connector="linear").replace("elsewhere", "data"))
    return _recipe.read("late.yaml")


def carried_out(recipe, place):
    return _training.carry_out(recipe, place, fresh=False, say=print, bar=_show.no_bar)


def weights(place):
    return Path(place, "model.safetensors").read_bytes()


def test_both_are_trained_and_carrying_out_the_other_finds_it_done(recipe, two_cores, capsys):
    with _beside.beside(recipe, Path("other")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    found, alone = weights("other"), carried_out(recipe, Path("alone"))
    told = carried_out(recipe, Path("other"))
    assert "resuming" not in capsys.readouterr().err  # there is nothing to go on with
    assert told["resumed_from"] == told["steps"] == alone["steps"] > 0 and alone["resumed_from"] == 0
    assert found == weights("other") == weights("alone")


def test_what_ends_the_first_ends_the_other_which_goes_on_later(recipe, two_cores):
    """It is told politely, once: it writes a checkpoint, from which it comes to the same weights."""
    longer = replace(recipe, training=replace(recipe.training, checkpoint_minutes=60.0))
    stages = (replace(longer.training.stages[0], epochs=None, steps=20_000),)
    longer = replace(longer, training=replace(longer.training, stages=stages))
    log = Path("other/log.jsonl")
    with pytest.raises(KeyboardInterrupt), _beside.beside(longer, Path("other")):
        _until(lambda: log.is_file() and log.read_text().endswith("\n"))
        raise KeyboardInterrupt
    assert not multiprocessing.active_children() and torch.get_num_threads() == 2
    steps = json.loads(log.read_text().splitlines()[-1])["step"]
    assert steps < 20_000 and not Path("other/model.safetensors").exists()
    (checkpoint,) = Path("other/checkpoints").iterdir()
    assert int(re.findall(r"\d+", checkpoint.name)[0]) >= steps


@pytest.mark.parametrize(
    "ended", [lambda first: os.killpg(first.pid, signal.SIGINT), subprocess.Popen.kill], ids=["Ctrl-C to all", "killed"]
)
def test_the_end_of_the_first_is_heard_once(recipe, ended):
    Path("long.yaml").write_text(Path("late.yaml").read_text().replace("epochs: 1", "steps: 5000000"))
    Path("first.py").write_text(FIRST)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen([sys.executable, "first.py"], start_new_session=True, **quiet)
    log, kept = Path("other/log.jsonl"), Path("other/checkpoints")
    _until(lambda: log.is_file() and log.read_text().endswith("\n"))
    ended(first)
    first.wait()
    _until(lambda: kept.is_dir() and any(kept.glob("step-*")))  # which nothing but a polite end writes so early


def _until(reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_goes_wrong_there_comes_up_where_it_is_wanted(recipe, two_cores, capfd):
    broken = replace(recipe, model={**recipe.model, "connector": "nobody"})
    with _beside.beside(broken, Path("other")):
        pass
    assert not Path("other/model.safetensors").exists() and capfd.readouterr().err == ""


@pytest.mark.parametrize("why", ["one core", "an accelerator"])
def test_nothing_is_done_beside_where_it_gains_nothing(recipe, two_cores, monkeypatch, why):
    if why == "one core":
        torch.set_num_threads(1)
    else:
        monkeypatch.setattr("foveal.training.processes.on_cpu", lambda device: False)
    with _beside.beside(recipe, Path("other")):
        assert not multiprocessing.active_children()
    assert not Path("other").exists()


def test_a_comparison_trains_the_twin_beside_and_finds_the_same(recipe, two_cores, capsys):
    Path("tiny.yaml").write_text("\n".join(line for line in COMPARISON.splitlines() if "mid.yaml" not in line))
    found = {}
    for cores, words in ((2, "asking without images"), (1, "training without images")):
        torch.set_num_threads(cores)
        assert run(["compare", "tiny.yaml", "--out", str(cores)]) == 0
        assert f"late-0: {words}" in capsys.readouterr().err
        rows = json.loads(Path(f"{cores}/results.json").read_text())["rows"]
        found[cores] = [{**row, "seconds": None} for row in rows]
        assert not Path(f"{cores}/runs/late-0/text_only/checkpoints").exists()
    assert found[1] == found[2]
    assert weights("1/runs/late-0/text_only") == weights("2/runs/late-0/text_only")


def test_a_twin_that_cannot_be_is_told_and_hinders_nothing(recipe, two_cores, capsys):
    text = Path("late.yaml").read_text().replace("{name: learn,", "{name: learn, train: [connector],")
    Path("late.yaml").write_text(text)
    lines = [line for line in COMPARISON.splitlines() if "mid.yaml" not in line]
    Path("tiny.yaml").write_text("\n".join(lines).replace("ablate: {model.language.depth: [2]}", "settings: {}"))
    assert run(["compare", "tiny.yaml", "--out", "out", "tokens=[]"]) == 0
    told = json.loads(Path("out/results.json").read_text())
    (failure,) = told["failures"]
    assert "nothing is left to train" in failure["error"] and [row["system"] for row in told["rows"]] == ["late"]
