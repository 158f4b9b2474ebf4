"""Where what a budget leaves of tiles stands in the text, and what follows it."""

from dataclasses import replace

import pytest
import torch

from foveal.core.types import Batch, Layout, VisualTokens
from foveal.layers.relaid import stretched
from foveal.models.budget import budgeted
from foveal.models.tiles import stood
from tests.models.test_tiles import CUTS, batch_of, model_of

SHRUNK = {"order": "raster", "newline": True, "most": 1}
WORDS = ("input_ids", "valid", "prompt", "image_slot", "labels")


@torch.no_grad()
@pytest.mark.parametrize("laid", ["for the budget", "for all"])
@pytest.mark.parametrize("budget", [6, 3, 1])
def test_text_after_tiles_that_are_shrunk_stands_where_it_stood_behind_all_tokens(budget, laid):
    """A view of 4, 2 cells and a newline are left of a field of 24; with a cache as without."""
    model = model_of("mlp", SHRUNK)
    view, whole = budgeted(model, budget), batch_of(model, CUTS[:1])
    assert model.plan(CUTS[:1]).counts == (7,)
    batch = batch_of(view, CUTS[:1]) if laid == "for the budget" else view.spent(whole)
    batch = replace(batch, seen=view.see(batch))
    places = view.placed(batch, batch.seen).positions
    assert places[batch.image_slot < 0].tolist() == [0, 8, 9, 10]
    assert all(1 <= place <= 7 for place in places[batch.image_slot >= 0].tolist())
    said, length = view(batch).logits, batch.input_ids.shape[1]
    cache = view.language.cache(1, length)
    for part in (slice(0, length - 2), slice(length - 2, length)):
        here = {name: getattr(batch, name)[:, part] for name in WORDS}
        here |= {} if part.start == 0 else {"visual": None, "owner": batch.owner[:0], "seen": None}
        torch.testing.assert_close(
            view(replace(batch, **here), cache=cache).logits, said[:, part], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_no_context_is_too_short_for_tokens_that_never_were():
    model = model_of("mlp", SHRUNK)
    model.language.context = batch_of(model, CUTS[:1]).input_ids.shape[1]
    view = budgeted(model, 3)
    assert view(batch_of(view, CUTS[:1])).logits.isfinite().all()


@torch.no_grad()
def test_text_after_tiles_that_are_not_shrunk_stands_behind_their_field():
    model = model_of("mlp", {"order": "raster", "newline": True})
    view = budgeted(model, 3)
    batch = batch_of(view, CUTS[:1])
    assert model.plan(CUTS[:1]).counts == (4 + 4 * 7,)
    assert view.placed(batch, view.see(batch)).positions[0, -1] == 24 + 3


def left_of(before, count):
    left = VisualTokens.on_layout(torch.zeros(count, 2), Layout(counts=(count,), grids=(None,)))
    corners = torch.tensor([[0.0, 0.0], [4 / 6, 0.0], [5 / 6, 3 / 4]])[:count]
    return replace(left, boxes=torch.cat([corners, corners + torch.tensor([1 / 6, 1 / 4])], dim=1), before=before)


def test_a_price_may_leave_more_tokens_than_a_shrunk_image_had():
    field = Layout.of_grids([(4, 6)])
    made = [stood(left_of(field, 3), Layout(counts=(most,), grids=(None,))).before.counts for most in (2, 7, 30)]
    assert made == [(3,), (7,), (24,)]


def test_places_on_axes_are_those_of_the_field():
    seen = stood(left_of(Layout.of_grids([(4, 6)]), 3), Layout(counts=(7,), grids=(None,)))
    slots = torch.tensor([[-1, 0, 1, 2, -1]])
    parts = {"input_ids": slots * 0, "valid": slots > -2, "prompt": slots > -2, "image_slot": slots}
    batch = Batch(**parts, positions=torch.zeros(1, 5, 3, dtype=torch.long))
    assert stretched(batch, seen).positions[0, 1:4].tolist() == [[0, 0, 0], [0, 0, 4], [0, 3, 5]]
    assert stretched(replace(batch, positions=None), seen).positions[0].tolist() == [0, 1, 2, 7, 8]
