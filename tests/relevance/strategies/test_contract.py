"""Every strategy by folder: as many tokens as planned, alone as in a batch, and nothing changed without need."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator
from foveal.core.lookup import build, names, spec
from foveal.core.types import Layout, Query, VisualTokens

ROOM = "relevance.strategies"
NAMES = names(ROOM)
CUTTING = [name for name in NAMES if name not in ("all", "fastv", "pyramid_drop")]  # these two: within the language
GRIDS = [(4, 6), (5, 5), (2, 3), (4, 6)]


def strategy(name, budget):
    return build(ROOM, spec(ROOM, {"name": name, "budget": budget})).eval()


def visual(grids, seed=0, width=6):
    layout, chance = Layout.of_grids(grids), torch.Generator().manual_seed(seed)
    features = torch.randn(layout.total, width, generator=chance)
    made = VisualTokens.on_layout(features, layout, (features * 2, features[:, :3]))
    told = {
        "attention": torch.rand(layout.total, generator=chance),
        "keys": torch.randn(layout.total, 2, 3, generator=chance),
    }
    return replace(made, **told)


def question(images, seed=1, width=6):
    chance = torch.Generator().manual_seed(seed)
    words = torch.randn(images, 3, width, generator=chance)
    return Query(features=words, valid=torch.ones(images, 3, dtype=torch.bool), owner=torch.arange(images))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 5, 23, 24, 99])
def test_the_tokens_are_those_planned(name, budget):
    allocator, seen = strategy(name, budget), visual(GRIDS)
    assert isinstance(allocator, Allocator)
    made = allocator.between(seen, question(4))
    assert made.layout == allocator.plan(seen.layout) and len(made.features) == made.layout.total
    if name in CUTTING:
        assert made.layout.counts == tuple(min(budget, rows * columns) for rows, columns in GRIDS)
    assert all(len(level) == made.layout.total for level in made.levels)
    assert ((made.boxes >= 0) & (made.boxes <= 1 + 1e-6)).all() and made.mass.min() >= 1


@pytest.mark.parametrize("name", NAMES)
def test_an_image_alone_is_as_in_a_batch(name):
    allocator, seen, asked = strategy(name, 5), visual(GRIDS), question(4)
    together = allocator.between(seen, asked)
    for image, (begin, end) in enumerate(zip(seen.layout.offsets, seen.layout.offsets[1:], strict=False)):
        layout = Layout.of_grids([GRIDS[image]])
        one = VisualTokens.on_layout(seen.features[begin:end], layout, tuple(part[begin:end] for part in seen.levels))
        one = replace(one, attention=seen.attention[begin:end], keys=seen.keys[begin:end])
        alone = allocator.between(one, replace(asked, owner=torch.tensor([image])))
        mine = slice(together.layout.offsets[image], together.layout.offsets[image + 1])
        torch.testing.assert_close(together.features[mine], alone.features)
        torch.testing.assert_close(together.boxes[mine], alone.boxes)
        torch.testing.assert_close(together.levels[1][mine], alone.levels[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_all_tokens_changes_nothing(name):
    seen = visual(GRIDS)
    made = strategy(name, 25).between(seen, question(4))
    assert torch.equal(made.features, seen.features) and torch.equal(made.boxes, seen.boxes)
    assert made.layout == seen.layout


@pytest.mark.parametrize("name", CUTTING)
def test_levels_and_classes_are_cut_as_the_features_are(name):
    seen = visual(GRIDS)
    seen = replace(seen, classes=seen.features.softmax(-1))
    made = strategy(name, 5).between(seen, question(4))
    torch.testing.assert_close(made.levels[0], 2 * made.features)
    torch.testing.assert_close(made.levels[1], made.features[:, :3])
    torch.testing.assert_close(made.classes.sum(-1), torch.ones(len(made.features)))


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_steered_hears_the_question(name):
    allocator, seen = strategy(name, 5), visual(GRIDS)
    one, other = (allocator.between(seen, question(4, seed)).features for seed in (1, 2))
    assert torch.equal(one, other) != allocator.steered


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_question_gives_a_cut_all_the_same(name):
    asked = question(4)
    made = strategy(name, 5).between(visual(GRIDS), replace(asked, valid=torch.zeros_like(asked.valid)))
    assert torch.isfinite(made.features).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_another_width_gives_a_cut_all_the_same(name):
    allocator, seen = strategy(name, 5), visual(GRIDS)
    made = allocator.between(seen, question(4, width=9))
    assert torch.isfinite(made.features).all() and made.layout == allocator.plan(seen.layout)


@pytest.mark.parametrize("name", [name for name in NAMES if "attention" in getattr(strategy(name, 5), "needs", ())])
def test_what_needs_attention_says_so_where_there_is_none(name):
    seen = replace(visual(GRIDS), attention=None, keys=None)
    with pytest.raises(InputError, match=f"strategy '{name}' needs the encoder's attention"):
        strategy(name, 5).between(seen, question(4))
    assert strategy(name, 25).between(seen, question(4)) is seen


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_features_and_every_parameter(name):
    allocator, seen = strategy(name, 5), visual(GRIDS)
    features = seen.features.requires_grad_()
    allocator.between(replace(seen, features=features), question(4)).features.square().sum().backward()
    assert features.grad.abs().sum() > 0
    for parameter in allocator.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CUTTING)
def test_what_cannot_be_cut_is_refused(name):
    with pytest.raises(InputError, match="a budget of 0 visual tokens"):
        strategy(name, 0)
    flat = Layout(counts=(9,), grids=(None,))
    if name == "foveal":  # it chooses among what lies on no grid
        assert strategy(name, 5).plan(flat) == Layout(counts=(5,), grids=(None,))
    else:
        refused = f"strategy '{name}' wants a grid to cut, and the 9 visual tokens of image 0"
        with pytest.raises(InputError, match=refused):
            strategy(name, 5).plan(flat)
    assert strategy(name, 9).plan(flat) == flat
    with pytest.raises(InputError, match="there are videos here; ask about one of their frames as a picture, or"):
        strategy(name, 5).plan(Layout(counts=(8,), grids=((2, 2),), frames=(2,)))
    seen = visual(GRIDS)
    hidden = replace(seen, masked=torch.zeros(len(seen.features), dtype=torch.bool))
    with pytest.raises(InputError, match=r"hidden visual tokens, which stand in tiles.*; ask or train without"):
        strategy(name, 5).between(hidden, question(4))


@pytest.mark.parametrize("name", CUTTING)
def test_autocast_changes_no_choice_and_no_value(name):
    seen, asked = visual([(20, 20)], width=32), question(1, width=32)
    seen = replace(seen, classes=seen.features.softmax(-1))
    allocator = strategy(name, 64)
    plain = allocator.between(seen, asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = allocator.between(seen, asked)
    for field in ("features", "classes", "boxes", "mass"):
        torch.testing.assert_close(getattr(made, field), getattr(plain, field), atol=0, rtol=0)
