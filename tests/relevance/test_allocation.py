from itertools import pairwise

import numpy as np
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


def sound(made, grid):
    patches = grid[0] * grid[1]
    assert sorted(made.order.tolist()) == list(range(patches - 1)) and made.keys.isfinite().all()
    assert (made.keys[1:] <= made.keys[:-1]).all() and made.features.isfinite().all()
    assert torch.equal(made.mass, made.assignment.bincount(minlength=len(made.mass)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("side", "peak", "scale", "budget"),
    [(96, 2, 1, 400), (24, 5, 1, 4), (24, 5, 1, 300), (24, None, 200, 64), (24, None, 2000, 300), (96, None, 1, 1)],
)
def test_half_precision_is_parted_as_the_same_values_in_full(kind, side, peak, scale, budget):
    torch.manual_seed(0)
    features = (torch.rand(side**2, 8) * scale).to(kind)
    relevance = None if peak is None else torch.softmax(peak * torch.randn(side**2), 0)
    made, full = (
        allocate(some, grid=(side, side), budget=budget, relevance=relevance) for some in (features, features.float())
    )
    sound(made, (side, side))
    assert made.features.dtype == kind
    assert torch.equal(made.order, full.order) and torch.equal(made.boxes, full.boxes)
    assert torch.equal(made.keys, full.keys)
    assert torch.equal(made.features, full.features.to(kind))


@pytest.mark.parametrize("far", [1e-30, 1e-15, 1e15, 1e30, 1e37])
@pytest.mark.parametrize("heavy", [1e-30, 1.0, 1e30, 1e37])
def test_no_scale_changes_what_is_parted(far, heavy):
    features, relevance = image((12, 12))
    plain = allocate(features, grid=(12, 12), budget=30, relevance=relevance)
    made = allocate(features * far, grid=(12, 12), budget=30, relevance=relevance * heavy)
    sound(made, (12, 12))
    assert torch.equal(made.boxes, plain.boxes)
    torch.testing.assert_close(made.features / far, plain.features)
    torch.testing.assert_close(made.keys / far / far / heavy, plain.keys, rtol=1e-4, atol=1e-9)


def test_an_image_beside_one_of_great_numbers_is_as_alone():
    features, relevance = (part.expand(2, *part.shape) for part in image((6, 6)))
    far = torch.tensor([1.0, 1e30])[:, None, None]
    made = allocate(features * far, grid=(6, 6), budget=9, relevance=relevance)
    alone = allocate(features[0], grid=(6, 6), budget=9, relevance=relevance[0])
    assert torch.equal(made.features[0], alone.features) and torch.equal(made.keys[0], alone.keys)


def test_numbers_near_the_ends_of_float64_are_parted_as_others():
    features, relevance = (part.double() for part in image((6, 6)))
    plain = allocate(features, grid=(6, 6), budget=9, relevance=relevance)
    for scale in (1e-300, 1e300):
        made = allocate(features * scale, grid=(6, 6), budget=9, relevance=relevance * scale)
        sound(made, (6, 6))
        assert torch.equal(made.boxes, plain.boxes)


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


def test_it_is_exported_whole_for_any_number_of_images():
    class Cut(torch.nn.Module):
        def forward(self, features, relevance):
            return allocate(features, grid=(6, 7), budget=13, relevance=relevance)

    given, images = (torch.randn(5, 42, 4), torch.rand(5, 42)), torch.export.Dim("images")
    again = torch.export.export(Cut(), given, dynamic_shapes=({0: images}, {0: images})).module()
    for count in (1, 2, 9):
        some = torch.randn(count, 42, 4), torch.rand(count, 42)
        made, alike = Cut()(*some), again(*some)
        assert type(alike) is type(made)
        for name, part in vars(made).items():
            assert getattr(alike, name) == part if name == "note" else torch.equal(getattr(alike, name), part)


@pytest.mark.parametrize(
    "given",
    [
        {"grid": [3, 4]},
        {"budget": np.int64(3)},
        {"budget": torch.tensor(3)},
        {"floor": [1, 1]},
        {"floor": np.int64(1)},
        {"relevance": torch.ones(12, dtype=torch.int64)},
        {"relevance": torch.ones(12, dtype=torch.bool)},
    ],
)
def test_what_says_the_same_is_the_same(given):
    plain = {"features": torch.arange(24.0).view(12, 2), "grid": (3, 4), "budget": 3}
    made, alike = allocate(**plain), allocate(**{**plain, **given})
    assert torch.equal(made.features, alike.features) and torch.equal(made.boxes, alike.boxes)


def test_whole_numbers_are_pooled_as_float():
    features = torch.arange(24, dtype=torch.uint8).view(12, 2)
    made = allocate(features, grid=(3, 4), budget=3)
    assert torch.equal(made.features, allocate(features.float(), grid=(3, 4), budget=3).features)


def test_no_images_are_no_tokens():
    made = allocate(torch.zeros(0, 12, 2), grid=(3, 4), budget=3, relevance=torch.zeros(0, 12))
    assert made.features.shape == (0, 3, 2) and made.boxes.shape == (0, 3, 4) and made.order.shape == (0, 11)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": 0}, "a budget of 0 tokens; give 1 or more"),
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"grid": (12,)}, r"a grid of \(12,\); give \(rows, columns\)"),
        ({"grid": (3, 4, 1)}, r"a grid of \(3, 4, 1\)"),
        ({"grid": 12}, "a grid of 12; give"),
        ({"grid": (3.0, 4.0)}, r"a grid of \(3.0, 4.0\)"),
        ({"grid": (-3, -4)}, r"a grid of \(-3, -4\)"),
        ({"floor": 2.5}, "a floor of 2.5; give"),
        ({"floor": "x"}, "a floor of 'x'"),
        ({"floor": (2,)}, r"a floor of \(2,\)"),
        ({"floor": (2, 2, 2)}, r"a floor of \(2, 2, 2\)"),
        ({"floor": True}, "a floor of True"),
        ({"budget": 3.0}, "a budget of 3.0; give a whole number"),
        ({"budget": "3"}, "a budget of '3'"),
        ({"features": torch.zeros(12, 0)}, r"features of shape \(12, 0\)"),
        ({"features": np.zeros((12, 2))}, "features of type ndarray; give a tensor"),
        ({"features": torch.zeros(12, 2, dtype=torch.complex64)}, "features of torch.complex64; give a tensor of real"),
        ({"relevance": [1.0] * 12}, "relevance of type list; give a tensor"),
    ],
)
def test_what_is_of_no_such_type_is_refused_too(wrong, says, untyped):
    with pytest.raises(InputError, match=says):
        allocate(**{"features": torch.randn(12, 2), "grid": (3, 4), "budget": 3, **wrong})


def test_it_is_at_the_front_door():
    assert foveal.relevance.allocate is allocate


def test_numbers_that_nothing_adds_up_are_refused():
    with pytest.raises(InputError, match=r"features of torch\.float8_e4m3fn, which nothing is added up in; give"):
        allocate(torch.ones(4, 2).to(torch.float8_e4m3fn), grid=(2, 2), budget=2)
