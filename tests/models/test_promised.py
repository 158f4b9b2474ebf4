"""Components whose call makes something else than their plan says."""

from dataclasses import replace

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import Layout
from foveal.relevance.strategies.random import Random
from tests.tiny import tiny_run

QUESTION = "how many"


def asked(run):
    return run.processor.prompt([([Image.new("RGB", (16, 16))] * 2, QUESTION)], plan=run.model.plan)


def fewer(layout):
    counts = (*layout.counts[:-1], layout.counts[-1] - 1)
    return Layout(counts=counts, grids=(None,) * len(counts))


def one_less(visual):
    parts = {name: getattr(visual, name)[:-1] for name in ("features", "image", "boxes", "mass")}
    return replace(visual, **parts)


def changed(monkeypatch, component, name, how):
    call = getattr(component, name)
    monkeypatch.setattr(component, name, lambda self, *given: how(call(self, *given)))


def test_a_connector_that_plans_fewer_tokens_than_it_makes_is_told(monkeypatch):
    run = tiny_run([QUESTION])
    monkeypatch.setattr(type(run.model.connector), "plan", lambda self, layout: fewer(layout))
    told = r"connector 'linear' planned 15 visual tokens of image 1 and made 16 \(31 and 32 of 2 images\)"
    with pytest.raises(InputError, match=told):
        run.model(asked(run))


def test_an_encoder_that_makes_fewer_tokens_than_it_planned_is_told(monkeypatch):
    run = tiny_run([QUESTION])
    batch = asked(run)
    changed(
        monkeypatch, type(run.model.vision), "forward", lambda made: replace(one_less(made), layout=fewer(made.layout))
    )
    with pytest.raises(InputError, match=r"vision 'vit' planned 16 visual tokens of image 1 and made 15 \(32 and 31"):
        run.model(batch)


def test_features_beside_the_layout_that_they_claim_are_told(monkeypatch):
    run = tiny_run([QUESTION])
    changed(monkeypatch, type(run.model.connector), "forward", one_less)
    with pytest.raises(InputError, match="connector 'linear' planned 32 visual tokens and made 31; make its plan and"):
        run.model(asked(run))


def test_a_connector_of_another_width_is_told(monkeypatch):
    run = tiny_run([QUESTION])
    wide = type(run.model.connector)
    changed(monkeypatch, wide, "forward", lambda made: made.with_features(made.features.repeat(1, 2)))
    with pytest.raises(InputError, match="connector 'linear' made visual tokens of width 64 where 32 is wanted"):
        run.model(asked(run))


def test_a_strategy_that_keeps_fewer_than_it_planned_is_told(monkeypatch):
    run = tiny_run([QUESTION])
    changed(monkeypatch, Random, "between", one_less)
    with pytest.raises(InputError, match="strategy 'random' planned 8 visual tokens and made 7"):
        run.generate(asked(run), max_new_tokens=1, budget=4, strategy="random")
