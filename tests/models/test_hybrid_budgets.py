"""Hybrids under a budget: distributions over a visual vocabulary pool and tell, and every level takes the same cut."""

from dataclasses import replace

import pytest
import torch

from foveal.core.types import Layout, VisualTokens
from foveal.models.budget import budgeted
from foveal.relevance.knowing import entropy
from tests.models.test_strategies import VIT, batch, model_of

TABLE = {"name": "visual_embedding_table", "entries": 12}
DEEP = {"vision": {**VIT, "levels": [0]}, "fusion": {"name": "deepstack", "after": [0]}}


@torch.no_grad()
def test_probabilities_pool_and_their_entropy_is_what_is_there():
    model = model_of(connector=TABLE)
    view = budgeted(model, 5)
    given = batch(view)
    seen = view.see(given)
    assert seen.layout.counts == (5, 5)
    torch.testing.assert_close(seen.classes.sum(-1), torch.ones(10))
    rows = seen.classes.to(seen.features.dtype) @ model.connector.table.weight[:12]
    torch.testing.assert_close(rows, seen.features, atol=1e-5, rtol=1e-5)  # a mean of rows is the row of the mean
    whole = model.see(batch(model))
    told = entropy(whole.classes.unflatten(0, (2, 16))).unflatten(1, (4, 4))
    for one, expected in zip(seen.looked, told, strict=True):
        torch.testing.assert_close(one.maps[0], expected)


@torch.no_grad()
def test_every_level_takes_the_cut_of_the_features():
    view = budgeted(model_of(**DEEP), 5)
    torch.manual_seed(1)
    layout = Layout.of_grids([(4, 4), (4, 4)])
    features = torch.randn(32, 16)
    visual = replace(VisualTokens.on_layout(features, layout), levels=(2 * features,))
    left = view.allocator.between(visual, view.query(batch(view)))
    torch.testing.assert_close(left.levels[0], 2 * left.features)
    out = view(batch(view))
    assert out.visual.layout.counts == (5, 5) and len(out.visual.levels[0]) == 10
    assert torch.isfinite(out.logits).all()


@pytest.mark.parametrize("parts", [{"connector": TABLE}, DEEP], ids=["table", "deepstack"])
def test_an_allocator_of_the_model_learns(parts):
    model = model_of(allocator={"name": "foveal", "budget": 5, "explore": 0.2}, **parts).train()
    model(batch(model)).logits.logsumexp(-1).sum().backward()
    assert model.allocator.balancer.weigh.weight.grad.abs().sum() > 0
