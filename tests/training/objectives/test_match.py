"""Words that look at the cells that show them."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Stage
from foveal.training.objectives.joint import joint
from foveal.training.objectives.match import match

WEIGHTS = {"answers": 1.0, "cells": 0.5, "match": 0.25}


@pytest.fixture
def batch(world):
    model = world.model()
    given = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:8]])
    return model, asked(given)


def asked(batch):
    """The batch of this small world names things in answers alone: here these are read as questions."""
    return replace(batch, labels=None)


def test_steps_on_it_move_attention_to_the_right_cells(batch):
    model, given = batch
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first, words = match(model, given)
    assert words > 0
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = match(model, given)
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * first


def test_a_word_that_no_cell_shows_and_an_answer_count_nothing(batch):
    model, given = batch
    elsewhere = {"cells": torch.zeros_like(given.targets["cells"])}
    assert match(model, replace(given, targets=elsewhere))[1] == 0
    answers = replace(given, labels=given.input_ids)
    assert match(model, given)[1] > match(model, answers)[1] == 0


def test_rows_apart_lose_what_they_lose_together(world):
    model = world.model()
    collate = world.collate(model, cells=True)(Stage(steps=1))
    together = match(model, asked(collate([[example] for example in world.data[:4]])))
    apart = [match(model, asked(collate([[example]]))) for example in world.data[:4]]
    assert together[1] == sum(count for _, count in apart)
    assert together[0].item() == pytest.approx(sum(loss.item() for loss, _ in apart), rel=1e-4)


def test_joint_adds_it_by_its_weight(world):
    model = world.model()
    given = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:8]])
    half = given.labels.clone()
    half[:4] = -100  # rows without an answer are questions from end to end
    given = replace(given, labels=half)
    loss, count, parts = joint(model, given, cells=0.5, match=0.25)
    assert loss.item() == pytest.approx(sum(w * parts[n][0].item() for n, w in WEIGHTS.items()), rel=1e-5)
    assert parts["match"][1] > 0
    assert count == sum(w * parts[n][1] for n, w in WEIGHTS.items())


def test_no_cells_and_no_such_head_say_so(batch):
    model, given = batch
    with pytest.raises(InputError, match="names no cells"):
        match(model, replace(given, targets={}))
    with pytest.raises(InputError, match="no head 9 in layer 0"):
        match(model, given, head=9)
