"""How an image's budget is parted over its grids, and what is left on each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Query, VisualTokens
from foveal.interop.columns import assemble
from foveal.interop.pictures import Picture, Piece, Spots
from foveal.interop.spending import Purse, portions, spend

ANYRES = Spots.lined(torch.tensor([False] * 9 + ([False] * 4 + [True]) * 3), (3, 3))


def shown(spots, seed=0, row=0, begin=0):
    features = torch.randn(spots.count, 8, generator=torch.Generator().manual_seed(seed))
    return Picture(row=row, columns=tuple(range(begin, begin + spots.count)), spots=spots), features


def asked(rows=1, words=3):
    features = torch.randn(rows, words, 8, generator=torch.Generator().manual_seed(9))
    return Query(features=features, valid=torch.ones(rows, words, dtype=torch.bool))


@pytest.mark.parametrize("budget", range(1, 24))
def test_portions_add_up_and_newlines_come_last(budget):
    for spots in (ANYRES, Spots.square(27, tiles=3), Spots.square(17)):
        if budget >= spots.count:
            continue
        shares, loose = portions(spots, budget)
        sizes = [len(piece.cells) for piece in spots.pieces]
        assert sum(shares) + loose == budget
        assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
        assert loose == max(0, budget - sum(sizes))
        assert min(shares) >= 1 or budget < len(shares)
        assert shares[spots.view] >= 1  # all of the picture is seen before a part of it


def test_pieces_share_by_their_size():
    assert portions(ANYRES, 7) == ([3, 4], 0)
    assert portions(Spots.square(27, tiles=3), 2) == ([1, 0, 1], 0)


SELECT = ["random", "grid", "divprune", "cdpruner", "dart"]


@pytest.mark.parametrize("strategy", ["foveal", "average_pool", "tome", *SELECT])
@pytest.mark.parametrize("budget", [2, 7, 22])
def test_exactly_the_budget_is_left_in_the_order_of_the_text(strategy, budget):
    picture, features = shown(ANYRES)
    (left,) = spend(Purse(budget, strategy, {}), [picture], [features], [(features * 2,)], asked())
    assert len(left.numbers) == len(left.features) == budget
    assert strategy == "tome" or (left.numbers.diff() >= 1).all()  # what is merged may stand around something else
    torch.testing.assert_close(left.levels[0], left.features * 2)
    assert len(left.looked) == 2
    if strategy in SELECT:
        assert torch.equal(left.features, features[left.numbers])
    if budget > 21:  # all cells, and the first newlines
        assert left.numbers.tolist() == [n for n in range(24) if n not in (18, 23)]


def test_a_pooled_token_stands_in_the_middle_of_its_rectangle():
    picture, features = shown(Spots.of_grid((4, 4)))
    (left,) = spend(Purse(4, "average_pool", {}), [picture], [features], [()], asked())
    assert left.numbers.tolist() == [5, 7, 13, 15]
    torch.testing.assert_close(left.features[0], features[[0, 1, 4, 5]].mean(0))


@pytest.mark.parametrize("strategy", ["foveal", "tome"])
def test_merged_tokens_come_in_the_order_that_models_are_trained_with(strategy):
    """That of the allocator, wherever the middles of what they hold may fall."""
    falls, purse = 0, Purse(9, strategy, {})
    for seed in range(8):
        picture, features = shown(Spots.of_grid((6, 6)), seed)
        (left,) = spend(purse, [picture], [features], [()], asked())
        query = replace(asked(), owner=torch.tensor([0]))
        made = purse.allocator(9).between(VisualTokens.on_layout(features, Layout.of_grids([(6, 6)])), query)
        torch.testing.assert_close(left.features, made.features)
        falls += int((left.numbers.diff() < 0).any())
        columns = assemble(features[None], *mixed(36), [picture], [left])
        assert torch.equal(columns.embeds[0], left.features)
        assert torch.equal(columns.source[0], left.numbers)
    assert falls > 0


def mixed(length):
    """A row of visual tokens alone."""
    return torch.ones(1, length, dtype=torch.bool), torch.ones(1, length, dtype=torch.bool)


@pytest.mark.parametrize("budget", [2, 5, 7])
def test_a_medoid_stands_where_its_patch_stands(budget):
    for spots in (ANYRES, Spots.of_grid((6, 8))):
        picture, features = shown(spots)
        (left,) = spend(
            Purse(budget, "foveal", {"realize": "medoid"}), [picture], [features], [(features * 2,)], asked()
        )
        assert torch.equal(left.features, features[left.numbers])
        assert torch.equal(left.levels[0], 2 * features[left.numbers])
        assert left.numbers.unique().tolist() == left.numbers.tolist()


def test_an_image_alone_equals_itself_among_others():
    several = [shown(ANYRES, 0), shown(Spots.of_grid((5, 3)), 1, row=1), shown(ANYRES, 2, row=1, begin=30)]
    purse, query = Purse(6, "foveal", {}), asked(rows=2)
    every = spend(purse, [one for one, _ in several], [two for _, two in several], [()] * 3, query)
    for (picture, features), left in zip(several, every, strict=True):
        (alone,) = spend(purse, [picture], [features], [()], query)
        assert torch.equal(alone.numbers, left.numbers)
        torch.testing.assert_close(alone.features, left.features)


def test_within_the_budget_nothing_is_touched_and_all_spares_nothing():
    picture, features = shown(ANYRES)
    for purse in (Purse(24, "foveal", {}), Purse(3, "all", {})):
        assert not purse.cuts(picture.spots)
        (left,) = spend(purse, [picture], [features], [()], asked())
        assert torch.equal(left.features, features)


@pytest.mark.parametrize("budget", [0, -1, True, 2.5, "64", None])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(InputError, match="visual tokens an image; give a whole number, 1 or more"):
        Purse(budget, "foveal", {})


def test_unknown_strategies_and_settings_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'foveal'"):
        Purse(4, "fovael", {})
    for strategy, lacks in (("vispruner", "attention"), ("downsample", "before they are"), ("fastv", "within the")):
        with pytest.raises(InputError, match=f"strategy '{strategy}' wants .*{lacks}"):
            Purse(4, strategy, {})
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        Purse(4, "foveal", {"temperatur": 2.0})


def test_a_strategy_by_another_setting_or_by_none_is_told_those_that_can_be():
    able = "give one of all, average_pool, cdpruner, dart, divprune, foveal, grid, random, tome as 'strategy'"
    with pytest.raises(InputError, match=f"name='divprune' is no setting; {able}"):
        Purse(6, "foveal", {"name": "divprune"})
    with pytest.raises(InputError, match=f"None is no strategy; {able}"):
        Purse(6, None, {})


def test_features_that_are_no_numbers_are_named():
    picture, features = shown(ANYRES)
    features[3, :2] = torch.nan
    with pytest.raises(InputError, match=r"features of image 0 \(row 0\) hold 2 values that are no numbers"):
        spend(Purse(4, "random", {}), [picture], [features], [()], asked())


def test_where_tokens_lie():
    assert ANYRES.pieces == (Piece(begin=0, grid=(3, 3), stride=3), Piece(begin=9, grid=(3, 4), stride=5))
    assert ANYRES.loose == (13, 18, 23)
    assert Spots.lined(torch.tensor([False] * 9 + [True]), (3, 3)).loose == (9,)
    assert Spots.square(17).pieces == (Piece(begin=1, grid=(4, 4), stride=4),)  # behind a class token
    assert Spots.square(18, tiles=2).view == 1
    with pytest.raises(InputError, match="15 visual tokens lie on no square grid"):
        Spots.square(15)


@pytest.mark.parametrize("settings", [{}, {"hears": 8}])
def test_spending_leaves_the_random_stream_where_it_was(settings):
    picture, features = shown(ANYRES)
    question, before = asked(), torch.get_rng_state()
    spend(Purse(7, "foveal", settings), [picture], [features], [()], question)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_of_numpy_and_tensors_are_taken():
    purse = Purse(np.int64(7), "foveal", {"explore": np.float32(0.5), "floor": torch.tensor(1)})
    assert (purse.budget, type(purse.budget)) == (7, int)
    assert Purse(torch.tensor(7), "grid", {}).budget == 7
    for wrong in (2.5, True, torch.tensor([3, 4])):
        with pytest.raises(InputError, match="visual tokens an image; give a whole number, 1 or more"):
            Purse(wrong, "foveal", {})


def test_a_strategy_is_built_once_for_each_share():
    purse = Purse(8, "foveal", {})
    assert purse.allocator(3) is purse.allocator(3) and purse.allocator(3) is not purse.allocator(8)
    assert (purse.allocator(3).budget, purse.allocator(8).budget) == (3, 8)


def test_a_floor_is_of_the_picture_and_coarser_in_a_tile_that_has_fewer_tokens():
    picture, features = shown(ANYRES)
    (left,) = spend(Purse(8, "foveal", {"floor": 2}), [picture], [features], [()], asked())
    assert len(left.numbers) == 8
    for floor in (-1, 9):
        with pytest.raises(InputError, match=f"a floor of {floor} x {floor} cells under a budget of 5"):
            Purse(5, "foveal", {"floor": floor})
