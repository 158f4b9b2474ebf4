"""A run that looks at what another run finds in pictures."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import foveal
from foveal.cli.main import run
from foveal.data.format import read
from tests.cli import test_detection, test_objectives

NAMED = ["processor.regions=proposals", "processor.proposals=runs/finds"]


@pytest.fixture
def call(painted, capsys):
    """A run that finds the one thing in each picture, a recipe that looks at it, and how to call a command."""

    def call(*arguments, expected=0):
        capsys.readouterr()
        assert run([str(argument) for argument in arguments]) == expected
        told = capsys.readouterr()
        return told.err if expected else told.out

    Path("finds.yaml").write_text(yaml.safe_dump(test_detection.TINY))
    Path("looks.yaml").write_text(yaml.safe_dump(test_objectives.TINY))
    call("train", "finds.yaml")
    return call


def test_what_a_run_finds_is_looked_at_and_found_once(call, monkeypatch):
    call("train", "looks.yaml", *NAMED)
    trained = foveal.load("runs/looks")
    wanted = trained.processor.config.proposals
    assert Path(wanted.run).is_absolute() and len(wanted.sha256) == 64
    found = foveal.load("runs/finds").detect(["data/0.png"])[0]
    count = 1 + sum(box.score >= wanted.least for box in found)
    example = read("data")[0]
    batch = trained.processor.prompt([example], plan=trained.model.plan)
    assert count == 2 == (batch.image_slot >= 0).sum() == trained.model.see(batch).features.shape[0]
    assert len(trained.processor.find.file.read_text().split()) > 6  # a line for each picture
    Path("data/train.jsonl").rename("data/test.jsonl")
    with monkeypatch.context() as patched:  # all pictures are known already
        patched.setattr("foveal.weights.run.detect", None)
        told = json.loads(call("eval", "--run", "runs/looks", "--data", "data", "--json"))
        assert told["questions"] == 12 and told["regions"] == "proposals"
    asked = json.loads(call("ask", "data/0.png", "what colour is it", "--run", "runs/looks", "--json"))
    assert asked["visual_tokens"] == count


@pytest.mark.parametrize(("given", "device"), [(None, "mps"), ("cpu", "cpu")])
def test_a_run_finds_on_the_device_it_is_given_or_on_the_accelerator(call, monkeypatch, given, device):
    call("train", "looks.yaml", *NAMED)
    find, asked = foveal.load("runs/looks", device=given).processor.find, []
    monkeypatch.setattr("foveal.core.machine.device", lambda: "mps")
    monkeypatch.setattr("foveal.weights.run.load", lambda folder, device: asked.append(device))
    find._opened()
    assert asked == [device]


def test_a_run_that_is_gone_or_another_one_is_refused(call):
    call("train", "looks.yaml", *NAMED)
    asked = ["ask", "data/0.png", "what colour is it", "--run", "runs/looks"]
    with Path("runs/finds/config.yaml").open("a") as config:
        config.write("# changed\n")
    assert "is another one than that whose boxes the model has learned from" in call(*asked, expected=2)
    shutil.rmtree("runs/finds")
    assert "there is no run" in call(*asked, expected=2)
    assert "there is no run" in call("train", "looks.yaml", *NAMED, "--out", "again", expected=2)


def test_what_cannot_find_is_named_before_anything_is_made(call):
    assert "name it with processor.proposals=RUN" in call("train", "looks.yaml", NAMED[0], expected=2)
    call("train", "looks.yaml")
    command = ["train", "looks.yaml", NAMED[0], "processor.proposals=runs/looks", "--out", "again"]
    assert "runs/looks finds no boxes" in call(*command, expected=2)
    assert not Path("again").exists()


def test_a_line_that_was_cut_off_is_found_again(call):
    call("train", "looks.yaml", NAMED[0], "processor.proposals={run: runs/finds, least: 0.1, most: 1}")
    find = foveal.load("runs/looks").processor.find
    known = find(["data/0.png"])
    find.file.write_text(find.file.read_text()[:-20])
    again = foveal.load("runs/looks").processor.find
    assert len(again.missing([f"data/{number}.png" for number in range(6)])) == 1
    again([f"data/{number}.png" for number in range(6)])
    assert foveal.load("runs/looks").processor.find.missing([f"data/{number}.png" for number in range(6)]) == []
    assert again(["data/0.png"]) == known
