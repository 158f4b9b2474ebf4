from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveal
from foveal.core.errors import InputError
from foveal.relevance import allocate

SIDES = st.one_of(st.integers(1, 9), st.sampled_from([17, 24, 40, 96]))


def image(grid, seed=0, width=4):
    chance = torch.Generator().manual_seed(seed)
    patches = grid[0] * grid[1]
    return torch.randn(patches, width, generator=chance), torch.rand(patches, generator=chance)


@given(SIDES, SIDES, st.data())
@settings(deadline=None, max_examples=60)
def test_the_budget_is_met_exactly_and_every_patch_is_in_one_token(rows, columns, data):
    patches = rows * columns
    budget = data.draw(st.integers(1, patches))
    features, relevance = image((rows, columns), width=2)
    made = allocate(features, grid=(rows, columns), budget=budget, relevance=relevance)
    assert made.features.shape == (budget, 2) and made.boxes.shape == (budget, 4) and made.note == ""
    at = torch.arange(patches)
    row0, col0, row1, col1 = made.boxes[made.assignment].T
    assert ((row0 <= at // columns) & (at // columns < row1) & (col0 <= at % columns) & (at % columns < col1)).all()
    assert torch.equal(made.mass, made.assignment.bincount(minlength=budget)) and int(made.mass.min()) > 0
    corners = made.boxes[:, 0] * columns + made.boxes[:, 1]
    assert torch.equal(corners, corners.sort().values)
    assert sorted(made.order.tolist()) == list(range(patches - 1))
    assert (made.keys[1:] <= made.keys[:-1]).all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (6, 6), (5, 7)])
def test_a_token_for_each_patch_is_the_image_itself(grid):
    features, relevance = image(grid)
    features[0, 0] = -0.0
    relevance[0] = 0
    made = allocate(features, grid=grid, budget=grid[0] * grid[1], relevance=relevance)
    assert torch.equal(made.features.view(torch.int32), features.view(torch.int32))
    more = allocate(features, grid=grid, budget=1000, relevance=relevance)
    assert torch.equal(more.features, features) and more.note.startswith("a budget of 1000 for")


def test_budgets_nest():
    features, relevance = image((9, 7))
    cuts = [allocate(features, grid=(9, 7), budget=b, relevance=relevance) for b in (1, 5, 20, 62, 63)]
    for coarse, fine in pairwise(cuts):
        pairs = torch.stack([fine.assignment, coarse.assignment]).unique(dim=1)
        assert pairs.shape[1] == len(fine.features)  # every fine token lies in one coarse token
        assert torch.equal(coarse.order, fine.order)


def test_tokens_are_means_by_relevance_and_plain_ones_where_nothing_is_relevant():
    features, relevance = image((4, 6))
    relevance[:12] = 0
    made = allocate(features, grid=(4, 6), budget=4, relevance=relevance, floor=2)
    for token in range(4):
        mine = made.assignment == token
        weight = relevance[mine] if relevance[mine].sum() > 0 else torch.ones(int(mine.sum()))
        mean = (features[mine] * weight[:, None]).sum(0) / weight.sum()
        torch.testing.assert_close(made.features[token], mean)


def test_a_floor_keeps_a_token_in_every_cell():
    features, relevance = image((8, 12))
    relevance[5:] = 0
    made = allocate(features, grid=(8, 12), budget=20, relevance=relevance, floor=(2, 3))
    at = torch.arange(96)
    cells = (at // 12 // 4) * 3 + at % 12 // 4
    assert torch.stack([made.assignment, cells]).unique(dim=1).shape[1] == 20
    with pytest.raises(InputError, match="a budget of 5 tokens for a floor of 6"):
        allocate(features, grid=(8, 12), budget=5, floor=(2, 3))


def test_images_of_one_grid_at_once_are_as_alone():
    pairs = [image((6, 5), seed) for seed in range(3)]
    features, relevance = (torch.stack(some) for some in zip(*pairs, strict=True))
    together = allocate(features, grid=(6, 5), budget=11, relevance=relevance)
    for i, (one, weight) in enumerate(pairs):
        alone = allocate(one, grid=(6, 5), budget=11, relevance=weight)
        assert torch.equal(together.features[i], alone.features) and torch.equal(together.order[i], alone.order)


def test_gradients_reach_features_and_relevance():
    features, relevance = image((6, 6))
    features.requires_grad_(), relevance.requires_grad_()
    allocate(features, grid=(6, 6), budget=9, relevance=relevance).features.square().sum().backward()
    assert features.grad.abs().min() > 0 and relevance.grad.abs().sum() > 0


def test_it_is_exported_whole():
    class Cut(torch.nn.Module):
        def forward(self, features, relevance):
            made = allocate(features, grid=(6, 7), budget=13, relevance=relevance)
            return made.features, made.boxes, made.assignment

    given = image((6, 7))
    exported = torch.export.export(Cut(), given).module()
    for again, made in zip(exported(*image((6, 7), 1)), Cut()(*image((6, 7), 1)), strict=True):
        assert torch.equal(again, made)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": 0}, "a budget of 0 tokens for a floor of 1"),
        ({"budget": -3}, "a budget of -3"),
        ({"budget": True}, "a budget of True"),
        ({"grid": (4, 4)}, "for a grid of 4 x 4 = 16 patches"),
        ({"relevance": torch.ones(5)}, "relevance of shape"),
        ({"relevance": -torch.ones(12)}, "relevance goes down to -1"),
        ({"relevance": torch.full((12,), torch.nan)}, "relevance hold 12 values that are no numbers"),
        ({"features": torch.full((12, 2), torch.inf)}, "features hold 24 values that are no numbers"),
        ({"floor": 5}, "a floor of 5 x 5 cells on a grid of 3 x 4"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        allocate(**{"features": torch.randn(12, 2), "grid": (3, 4), "budget": 3, **wrong})


def test_it_is_at_the_front_door():
    assert foveal.relevance.allocate is allocate
