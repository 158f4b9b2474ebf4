"""Relevance learns where answers come from, and nothing else learns."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.types import IGNORE
from foveal.models.budget import budgeted, unspent
from foveal.training.config import Stage
from foveal.training.objectives.evidence import evidence, hangs, spread
from tests.models.test_tiles import CUTS, RASTER, batch_of, model_of
from tests.training.objectives.test_budgets import early


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_what_tokens_are_worth_is_spread_evenly_over_their_patches(rows, columns, data):
    row, column = data.draw(st.integers(1, rows)), data.draw(st.integers(0, columns))
    boxes = [[0, 0, row, columns], [row, 0, rows, column], [row, column, rows, columns]]
    boxes = [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) > 0]
    worth = torch.tensor(data.draw(st.lists(st.floats(0, 5), min_size=len(boxes), max_size=len(boxes))))
    made = spread(torch.tensor(boxes).float(), worth, (rows, columns)).view(rows, columns)
    for (row0, col0, row1, col1), one in zip(boxes, worth, strict=True):
        own = made[row0:row1, col0:col1]
        torch.testing.assert_close(own, (one / own.numel()).expand_as(own), atol=1e-5, rtol=1e-5)


@pytest.fixture
def asked(world):
    """A model that spends a budget, and a batch of four questions that is laid out for all tokens."""
    model = budgeted(world.model(), 4, hears=16)
    return model, world.collate(unspent(model))(Stage(steps=1))([[example] for example in world.data[:4]])


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_an_answer_hangs_on_what_its_odds_move_with_however_sure_it_is(asked, scale):
    model, batch = asked
    with torch.no_grad():
        model.language.embedding.weight.mul_(scale**0.5)
        seen = model.whole(batch)
    labels = batch.labels
    first = tuple(place.item() for place in (labels != IGNORE).nonzero()[0])
    alone = torch.full_like(labels, IGNORE)
    alone[first] = labels[first]
    batch = replace(batch, labels=alone)
    found = hangs(model, replace(batch, seen=seen), batch)
    felt = seen.features.detach().requires_grad_()
    logits = unspent(model)(replace(batch, seen=replace(seen, features=felt)), keep="labelled").logits[0].double()
    right = int(labels[first])
    others = logits[torch.arange(len(logits)) != right]
    (slope,) = torch.autograd.grad(logits[right] - others.logsumexp(0), felt)
    assert found.max() > 0
    torch.testing.assert_close(found, slope.norm(dim=-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("budget", [2, 4])  # cut, and all tokens there are
def test_relevance_comes_to_lie_where_answers_come_from(asked, budget):
    model, batch = asked
    learns = torch.optim.Adam(model.allocator.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss, count, parts = evidence(model, batch, budget=budget)
        (loss / count).backward()
        learns.step()
        learns.zero_grad()
        losses.append(loss.item() / count)
    assert count == 4 and list(parts) == ["evidence"] and min(losses) >= 0
    assert losses[-1] < 0.7 * losses[0]


def test_only_who_looks_learns(asked):
    model, batch = asked
    evidence(model, batch, budget=4)[0].backward()
    learned = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert learned == {"allocator"}


def test_a_glance_learns_what_its_tiles_would_show():
    model = budgeted(model_of("mlp", RASTER), 9, hears=16)
    batch = batch_of(unspent(model), CUTS[:1])
    words = batch.input_ids.clone().random_(1, 40, generator=torch.Generator().manual_seed(0))
    batch = replace(batch, input_ids=torch.where(batch.image_slot < 0, words, batch.input_ids))
    batch = replace(batch, prompt=batch.prompt & (torch.arange(batch.valid.shape[1]) < batch.valid.shape[1] - 2))
    loss, count, parts = evidence(model, batch, budget=9)
    assert count == 1 and parts["glances"][1] == 1 and parts["glances"][0] > 0
    assert loss.item() == pytest.approx(sum(part.item() for part, _ in parts.values()), rel=1e-6)
    model.allocator.cover = 0.2
    torch.testing.assert_close(evidence(model, batch, budget=9)[0], loss)  # all tiles are read, whatever its own share
    parts["glances"][0].backward()
    assert model.allocator.hearing.say.weight.grad.abs().sum() > 0


def test_models_that_choose_answers_have_evidence_too():
    model, batch = early()
    loss, count, _ = evidence(model, batch, budget=2, of="choose")
    loss.backward()
    assert count == 2 and model.allocator.balancer.weigh.weight.grad.abs().sum() > 0


def test_a_batch_without_images_adds_nothing_and_who_cannot_learn_is_refused(asked):
    model, batch = asked
    none = replace(batch, visual=None, image_slot=torch.full_like(batch.image_slot, -1), owner=batch.owner[:0])
    loss, count, parts = evidence(model, none, budget=4)
    loss.backward()
    assert (loss.item(), count, parts) == (0.0, 0, {})
    for wrong in (unspent(model), budgeted(unspent(model), 4, "grid")):
        with pytest.raises(InputError, match="give the model an allocator: foveal"):
            evidence(wrong, batch)
