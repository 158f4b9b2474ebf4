"""Our own strategy, where its contract does not reach."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Query, VisualTokens
from foveal.relevance.allocation import allocate
from foveal.relevance.knowing import received
from foveal.relevance.pooling import medoids
from foveal.relevance.strategies.foveal import Foveal


def test_tokens_in_another_width_than_words_couple_to_none():
    torch.manual_seed(0)
    query = Query(features=torch.randn(1, 3, 6), valid=torch.ones(1, 3, dtype=torch.bool))
    maps = Foveal().knowing(torch.randn(2, 12, 4), (3, 4), query, torch.zeros(2, dtype=torch.long))
    assert not maps[:, 2].any() and maps[:, :2].any()
    assert Foveal().knowing(torch.randn(2, 12, 6), (3, 4), query, torch.zeros(2, dtype=torch.long))[:, 2].any()


def test_a_medoid_is_the_patch_of_a_token_that_is_nearest_to_its_mean():
    torch.manual_seed(0)
    grid, layout = (4, 5), Layout.of_grids([(4, 5), (4, 5)])
    visual = VisualTokens.on_layout(torch.randn(40, 6), layout)
    query = Query(features=torch.randn(2, 3, 6), valid=torch.ones(2, 3, dtype=torch.bool), owner=torch.tensor([0, 1]))
    pooled, kept = (Foveal(budget=7, realize=how).between(visual, query) for how in ("pool", "medoid"))
    assert torch.equal(pooled.boxes, kept.boxes) and torch.equal(pooled.mass, kept.mass)
    for image in range(2):
        mine = visual.features[20 * image : 20 * image + 20]
        shares = kept.looked[image].shares.flatten()
        token = allocate(mine, grid=grid, budget=7, relevance=shares).assignment
        for number in range(7):
            of = (token == number).nonzero()[:, 0]
            mean = (shares[of, None] * mine[of]).sum(0) / shares[of].sum()
            torch.testing.assert_close(pooled.features[7 * image + number], mean)
            nearest = of[(mine[of] - mean).norm(dim=-1).argmin()]
            assert torch.equal(kept.features[7 * image + number], mine[nearest])


def test_what_stands_out_may_be_what_the_encoder_attends_to():
    torch.manual_seed(0)
    grids = [(4, 5), (3, 4)]
    layout = Layout.of_grids(grids)
    visual = VisualTokens.on_layout(torch.randn(32, 6), layout)
    visual = replace(visual, attention=torch.rand(32))
    query = Query(features=torch.randn(1, 3, 6), valid=torch.ones(1, 3, dtype=torch.bool), owner=torch.tensor([0, 0]))
    plain, attends = (Foveal(budget=7, salience=how) for how in ("contrast", "attention"))
    assert (plain.needs, attends.needs) == ((), ("attention",))
    known, told = plain.between(visual, query), attends.between(visual, query)
    for image, own in enumerate((visual.attention[:20], visual.attention[20:])):
        torch.testing.assert_close(told.looked[image].maps[1], received(own[None])[0].view(grids[image]))
        assert torch.equal(told.looked[image].maps[::2], known.looked[image].maps[::2])
    assert not torch.equal(told.features, known.features)
    assert not torch.equal(attends.worth(visual, query), plain.worth(visual, query))
    with pytest.raises(InputError, match="strategy 'foveal' needs the encoder's attention"):
        attends.between(replace(visual, attention=None), query)


def test_of_equal_patches_the_first_is_the_medoid_and_what_no_token_holds_is_none():
    values = torch.tensor([[[1.0], [1.0], [5.0], [3.0], [4.0]]])
    token = torch.tensor([[0, 0, 1, 1, -1]])
    assert medoids(values, token, torch.ones(1, 5), 2).tolist() == [[1, 0, 1, 0, 0]]


@pytest.mark.parametrize(("floor", "budget"), [(-1, 5), (9, 5), (3, 8)])
def test_a_floor_that_the_budget_has_no_room_for_is_refused_at_once(floor, budget):
    said = f"a floor of {floor} x {floor} cells under a budget of {budget} visual tokens; give 0 .one root. to 2"
    with pytest.raises(InputError, match=said):
        Foveal(budget=budget, floor=floor)


def test_a_floor_is_as_coarse_as_what_is_left_of_the_budget_asks():
    layout = Layout.of_grids([(4, 5), (1, 9)])
    visual = VisualTokens.on_layout(torch.randn(29, 6), layout)
    query = Query(features=torch.randn(1, 3, 6), valid=torch.ones(1, 3, dtype=torch.bool), owner=torch.tensor([0, 0]))
    assert Foveal(budget=16, floor=4).apart(visual, query, [2, 3]).layout.counts == (2, 3)
    boxes = Foveal(budget=16, floor=4).apart(visual, query, [5, 3]).looked[0].boxes
    assert (boxes[:, 2] - boxes[:, 0]).max() <= 2 and (boxes[:, 3] - boxes[:, 1]).max() <= 3
