"""Images of which each process of a training makes its share."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from foveal.cli import _examples, _model, _recipe
from foveal.cli._training import Batches
from foveal.cli.main import run
from foveal.training.features import Store
from tests.cli import test_detection, test_objectives
from tests.cli.test_train import TINY

HALVES = [[f"data/{number}.png" for number in (first, first + 2, first + 4)] for first in (0, 1)]


@contextmanager
def bar(what, total):
    yield lambda images: None


@pytest.fixture
def as_one_of_two(monkeypatch):
    """Have what follows done as one of two processes, that waits for nobody; the other one's comes later."""

    def process(rank):
        state = SimpleNamespace(process_index=rank, num_processes=2, device="cpu", wait_for_everyone=lambda: None)
        monkeypatch.setattr("foveal.training.processes.processes", lambda device="auto": state)

    return process


def batches(name, *assignments):
    recipe = _recipe.read(name, assignments, data=Path("data"))
    data = _examples.examples(recipe, Path("data"))
    return Batches(_model.model_of(recipe, data), recipe, data, say=print, bar=bar)


def test_a_process_that_looks_later_makes_its_whole_share_of_the_features(painted, as_one_of_two, monkeypatch):
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    made, filled = batches("tiny.yaml"), []
    add = Store.add
    monkeypatch.setattr(Store, "add", lambda self, some: (filled.append([key for key, _ in some]), add(self, some)))
    stage = made.recipe.training.stages[0]
    for rank in (0, 1):  # the second looks when the first has filled its share
        as_one_of_two(rank)
        store = made._features(stage, made.processor(stage))
    assert [[Path(key.split(":")[0]).name for key in some] for some in filled] == [
        [Path(image).name for image in half] for half in HALVES
    ]
    assert store(HALVES[0] + HALVES[1]).layout.total == 6 * 4


def test_a_process_that_looks_later_finds_its_whole_share_of_the_proposals(painted, as_one_of_two, monkeypatch):
    Path("finds.yaml").write_text(yaml.safe_dump(test_detection.TINY))
    Path("looks.yaml").write_text(yaml.safe_dump(test_objectives.TINY))
    assert run(["train", "finds.yaml"]) == 0
    made = batches("looks.yaml", "processor.regions=proposals", "processor.proposals=runs/finds")
    for rank in (0, 1):
        as_one_of_two(rank)
        made._find(made.processor(made.recipe.training.stages[0]))
    find = made.processor(made.recipe.training.stages[0]).find
    assert find.device == "cpu"  # that of the training
    assert find.missing(HALVES[0] + HALVES[1]) == []
