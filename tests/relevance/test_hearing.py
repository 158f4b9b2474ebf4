"""Where a question says to look: nothing at first, then what its words have taught."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Query
from foveal.relevance.hearing import Hearing, waves
from foveal.relevance.knowing import coupling
from foveal.relevance.strategies.foveal import Foveal


def spoken(*words, width=8, length=5):
    """Questions of the same words wherever these occur, filled up with what is not there."""
    known = torch.randn(20, width, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[i < len(said) for i in range(length)] for said in words])
    ids = torch.tensor([[*said, *[19] * (length - len(said))] for said in words])
    return known[ids], valid


def test_a_fresh_one_says_nothing():
    torch.manual_seed(0)
    made = Hearing(width=8).place(*spoken([1, 2], [3]), (6, 4))
    assert made.shape == (2, 24) and not made.any()


def test_waves_are_apart_and_flat_in_sum_on_any_grid():
    for grid in ((16, 16), (5, 9), (48, 48)):
        found = waves(grid)
        assert found.shape == (15, grid[0] * grid[1])
        alike = found @ found.T
        torch.testing.assert_close(alike, torch.diag(alike.diagonal()), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.sum(1), torch.zeros(15), atol=1e-3, rtol=0)


def test_words_teach_where_to_look_in_whatever_question_they_stand():
    torch.manual_seed(0)
    hearing, left, right = Hearing(width=8), 3, 4
    taught = torch.optim.Adam(hearing.parameters(), lr=0.02)
    column = torch.arange(24) % 4
    for _ in range(150):
        beside = torch.randint(5, 15, (2, 3)).tolist()
        shares = hearing.place(*spoken([*beside[0], left], [right, *beside[1]]), (6, 4)).softmax(-1)
        (-(shares[0, column == 0].sum().log() + shares[1, column == 3].sum().log())).backward()
        taught.step()
        taught.zero_grad()
    other = hearing.place(*spoken([7, 8, left, 9], [right]), (12, 12)).softmax(-1).unflatten(1, (12, 12)).sum(1)
    assert other[0, :4].sum() > 0.8 and other[1, -4:].sum() > 0.8


def test_words_are_understood_together():
    """Left alone is the middle of the left; with a word beside it, it is a corner."""
    torch.manual_seed(0)
    hearing, left, bottom, top = Hearing(width=8), 3, 4, 2
    taught = torch.optim.Adam(hearing.parameters(), lr=0.02)
    for _ in range(200):
        beside = torch.randint(5, 15, (3, 2)).tolist()
        said = spoken([*beside[0], left], [*beside[1], bottom, left], [*beside[2], top, left])
        shares = hearing.place(*said, (3, 3)).softmax(-1)
        (-shares[torch.arange(3), torch.tensor([3, 6, 0])].log().sum()).backward()
        taught.step()
        taught.zero_grad()
    found = hearing.place(*spoken([left, 8], [bottom, 7, left], [9, top, left]), (3, 3)).argmax(-1)
    assert found.tolist() == [3, 6, 0]


def test_a_question_without_words_says_nothing_even_when_it_has_learned():
    hearing = Hearing(width=8)
    torch.nn.init.normal_(hearing.say.weight)
    words, valid = spoken([1, 2])
    assert hearing.place(words, valid, (3, 3)).any() and not hearing.place(words, valid & False, (3, 3)).any()


def test_it_begins_with_coupling_as_it_is_and_learns_what_a_word_looks_like():
    torch.manual_seed(0)
    told = Query(
        features=torch.randn(1, 4, 8), valid=torch.tensor([[True, True, True, False]]), owner=torch.zeros(1).long()
    )
    features, row = torch.randn(1, 24, 8), torch.tensor([0])
    fresh, plain = Foveal(hears=8), Foveal()
    torch.testing.assert_close(
        fresh.knowing(features, (4, 6), told, row), plain.knowing(features, (4, 6), told, row), atol=1e-6, rtol=1e-6
    )
    taught = torch.optim.Adam(fresh.parameters(), lr=0.02)
    for _ in range(60):
        heard = fresh.coupled(features, told, row)
        (-heard.mul(9).log_softmax(-1)[0, 13]).backward()
        taught.step()
        taught.zero_grad()
    assert fresh.coupled(features, told, row).argmax() == 13
    assert (fresh.hearing.gain(told.features) > 0).all()


def test_words_count_by_their_gain():
    patches = torch.eye(3)[None]
    words, valid = torch.eye(3)[None, :2], torch.ones(1, 2, dtype=torch.bool)
    alike = coupling(patches, words, valid)
    one = coupling(patches, words, valid, gain=torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(alike[0, :2], torch.full((2,), 2 / 3))
    torch.testing.assert_close(one[0], torch.tensor([2 / 3, 0.0, 0.0]))


def test_a_width_below_nothing_is_refused():
    with pytest.raises(InputError, match="hears -1; give the width of the words, or 0 for what needs no learning"):
        Foveal(hears=-1)


def test_autocast_keeps_places_in_full():
    hearing, words = Hearing(width=8), torch.randn(1, 3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hearing.place(words, torch.ones(1, 3, dtype=torch.bool), (4, 4)).dtype == torch.float32
