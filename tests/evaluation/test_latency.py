import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.evaluation.latency import FirstToken, alternating, clock_of, first_token
from foveal.models.budget import budgeted
from tests.cli.test_app_desk import made
from tests.models import test_tiles
from tests.tiny import tiny_run


@pytest.fixture(scope="module")
def run():
    return tiny_run(["Where is the fox?"])


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))


def test_an_accelerator_is_waited_for_and_timed_by_the_clock(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    clock, begun = clock_of(torch.device("cuda:1")), time.perf_counter()
    assert begun <= clock() <= time.perf_counter()
    assert waited == [torch.device("cuda:1")]
    assert clock_of(torch.device("cpu")) is time.process_time


def test_parts_are_timed_one_after_the_other_and_less_is_held(run, picture):
    ticks = count()
    held = {}
    for budget in (16, 4, 1):
        model = budgeted(run.model, budget)
        batch = run.processor.prompt([(picture, "Where is the fox?")], plan=model.plan)
        one = first_token(model, batch, clock=lambda: float(next(ticks)))
        assert (one.encoder, one.scorer, one.prefill, one.total) == (1, 1, 1, 3)
        held[budget] = one.held
    assert held[16] - held[4] == 4 * (held[4] - held[1]) > 0  # so many bytes a token


def test_the_token_that_is_timed_is_the_models_own(run, picture, monkeypatch):
    model = budgeted(run.model, 4)
    batch = run.processor.prompt([(picture, "Where is the fox?")], plan=model.plan)
    said, forward = [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: said.append(forward(*a, **k)) or said[-1])
    first_token(model, batch)
    torch.testing.assert_close(said[0].logits, forward(model, batch, keep="last").logits)


def test_a_gaze_that_leads_queries_is_the_scorers(picture):
    led, ticks = made("latents"), count()
    model = budgeted(led.model, 3)
    batch = led.processor.prompt([(picture, "Where is the fox?")], plan=model.plan)
    one = first_token(model, batch, clock=lambda: float(next(ticks)))
    assert (one.encoder, one.scorer, one.prefill) == (2, 2, 1)  # a tick before the gaze, in it and after it


def test_a_glance_at_a_view_is_the_scorers_and_tiles_that_nothing_needs_are_not_encoded(monkeypatch):
    model = test_tiles.model_of("linear", test_tiles.RASTER)
    view = budgeted(model, 5, cover=0.3)
    batch = replace(test_tiles.batch_of(view, test_tiles.CUTS[:1]), labels=None)
    encoded, look, ticks = [], type(model.vision).forward, count()
    monkeypatch.setattr(type(model.vision), "forward", lambda s, p: encoded.append(len(p.values)) or look(s, p))
    one = first_token(view, batch, clock=lambda: float(next(ticks)))
    assert len(encoded) == 2 and encoded[0] == 1 and 1 <= encoded[1] < 6
    assert (one.encoder, one.scorer, one.prefill) == (2, 2, 1)  # a glance ticks twice, between two looks
    assert (view.allocator.glance.__self__) is view.allocator  # as it was


def test_a_batch_without_pictures_is_refused(run):
    batch = run.processor.prompt([(None, "Where is the fox?")], plan=run.model.plan)
    with pytest.raises(InputError, match="holds none"):
        first_token(run.model, replace(batch, visual=None))


def test_sides_take_turns_and_the_first_round_does_not_count():
    order = []

    def side(name, totals):
        left = iter(totals)

        def once():
            order.append(name)
            total = next(left)
            return FirstToken(encoder=total / 2, scorer=total / 4, prefill=total / 4, held=len(name))

        return once

    found = alternating({"all": side("all", [99.0, 4.0, 8.0, 6.0]), "cut": side("cut", [0.1, 1.0, 4.0, 2.0])}, rounds=3)
    assert order == ["all", "cut"] * 4
    assert (found["all"].total, found["cut"].total, found["cut"].encoder) == (6.0, 2.0, 1.0)
    assert (found["all"].faster, found["cut"].faster, found["cut"].share) == (1.0, 3.0, 0.25)
    with pytest.raises(InputError, match="0 rounds"):
        alternating({"all": side("all", [])}, rounds=0)
