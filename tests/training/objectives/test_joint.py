"""Answers and cells on one pass."""

from dataclasses import replace

import pytest

from foveal.training.config import Stage
from foveal.training.objectives.cells import cells
from foveal.training.objectives.joint import joint
from foveal.training.objectives.next_token import next_token


def test_it_is_the_weighted_mean_of_both(world):
    model = world.model()
    batch = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:4]])
    passes = []
    model.language.layers[0].register_forward_hook(lambda *_: passes.append(1))
    loss, count, parts = joint(model, batch, cells=0.5)
    assert len(passes) == 1
    answers, named = next_token(model, batch), cells(model, batch)
    assert loss.item() == pytest.approx(answers[0].item() + 0.5 * named[0].item(), rel=1e-5)
    assert count == answers[1] + 0.5 * named[1]
    assert {name: of for name, (_, of) in parts.items()} == {"answers": answers[1], "cells": named[1]}


def test_without_images_it_is_the_loss_of_answers(world):
    model = world.model()
    words = [
        replace(example, images=(), messages=({"role": "user", "content": "say it"}, example.messages[1]))
        for example in world.data[:4]
    ]
    batch = world.collate(model)(Stage(steps=1))([[example] for example in words])
    loss, count, parts = joint(model, batch)
    answers = next_token(model, batch)
    assert (loss.item(), count, list(parts)) == (pytest.approx(answers[0].item()), answers[1], ["answers"])
