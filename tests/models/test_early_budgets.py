"""Models that read words and sight in both directions under a budget: cells are cut, proposals are chosen."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import foveal
from foveal.core.types import Layout, VisualTokens
from foveal.models.budget import budgeted
from foveal.relevance.pricing import Terms
from tests.models.test_masked import config, processor

FUSIONS = {
    "visualbert": {},
    "vilbert": {"fusion": {"name": "co_attention", "heads": 2}},
    "beit3": {
        "fusion": "prefix",
        "language": {"name": "multiway", "vocabulary": 20, "width": 16, "depth": 2, "heads": 2},
    },
}


def run_of(family, **more):
    torch.manual_seed(0)
    given = config(**{**FUSIONS[family], **more})
    given["language"]["context"] = 40
    run = foveal.build(given).eval()
    run.processor = processor()
    return run


def picture(seed=0):
    values = torch.randint(0, 255, (16, 16, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@pytest.mark.parametrize("family", FUSIONS)
def test_cells_are_cut_before_the_first_layer(family):
    run = run_of(family)
    whole = run.answer(picture(), "what colour is it")
    assert whole.visual_tokens == 4 and run.answer(picture(), "what colour is it", budget=4).text == whole.text
    said = run.answer(picture(), "what colour is it", budget=3)
    assert said.visual_tokens == 3 and said.relevance[0].shares.sum() > 0
    assert run.answer(picture(), "what colour is it", budget=Terms(total=2)).visual_tokens == 2
    asked = [(picture(0), "what colour is it"), (picture(1), "how many")]
    view = budgeted(run.model, 3)
    with torch.no_grad():
        both = view(run.processor.prompt(asked, plan=view.plan))
        assert both.visual.layout.counts == view.plan([(16, 16)] * 2).counts == (3, 3)
        for row, one in enumerate(asked):
            alone = view(run.processor.prompt([one], plan=view.plan))
            torch.testing.assert_close(alone.logits[0], both.logits[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FUSIONS)
def test_an_allocator_of_the_model_learns_from_its_answers(family):
    model = run_of(family, allocator={"name": "foveal", "budget": 3, "explore": 0.2}).model.train()
    out = model(processor().prompt([(picture(), "how many")], plan=model.plan))
    torch.nn.functional.cross_entropy(out.logits.flatten(0, -2), torch.tensor([1])).backward()
    assert model.allocator.balancer.weigh.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_proposals_are_chosen_by_relevance_and_stay_as_they_are():
    run = run_of("visualbert")
    layout = Layout(counts=(5, 3), grids=(None, None))
    boxes, mass = torch.rand(8, 4).sort(dim=1).values, torch.rand(8)
    regions = replace(VisualTokens.on_layout(torch.randn(8, 16), layout), boxes=boxes, mass=mass)
    view = budgeted(run.model, 3)
    query = view.query(processor().prompt([(picture(0), "how many"), (picture(1), "how many")], plan=view.plan))
    left = view.allocator.between(regions, query)
    assert left.layout.counts == view.allocator.plan(layout).counts == (3, 3)
    found = [int((regions.features == one).all(1).nonzero()[0]) for one in left.features]
    assert found[:3] == sorted(set(found[:3])) and max(found[:3]) < 5 and found[3:] == [5, 6, 7]
    assert torch.equal(left.boxes, boxes[found]) and torch.equal(left.mass, mass[found])
    maps = view.allocator.knowing(regions.features[None, :5], None, query, torch.tensor([0]))
    worth = view.allocator.balancer(maps, view.allocator.tensions)[0]
    assert set(found[:3]) == set(worth.topk(3).indices.tolist())
