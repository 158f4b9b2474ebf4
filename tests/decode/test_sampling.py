import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.decode.sampling import greedy, keep_top_k, keep_top_p, penalize, penalized, sampler

CHANCES = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
many = torch.zeros(20000, 0, dtype=torch.long)


def kept(logits):
    return [i for i, score in enumerate(logits[0].tolist()) if score > -math.inf]


def test_greedy_takes_the_first_of_the_best():
    assert greedy(torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])).tolist() == [1, 0]


@pytest.mark.parametrize(("k", "expected"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_top_k(k, expected):
    assert kept(keep_top_k(CHANCES.log(), k)) == expected


@pytest.mark.parametrize(
    ("p", "expected"), [(0.01, [0]), (0.49, [0]), (0.6, [0, 1]), (0.8, [0, 1, 2]), (0.95, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_hold_p(p, expected):
    assert kept(keep_top_p(CHANCES.log(), p)) == expected


@settings(deadline=None, max_examples=50)
@given(scores=st.lists(st.floats(-5, 5), min_size=1, max_size=10), p=st.floats(0.01, 1))
def test_top_p_holds_p_and_no_token_too_many(scores, p):
    logits = torch.tensor([scores], dtype=torch.float64)
    chances, mine = logits.softmax(-1)[0], kept(keep_top_p(logits, p))
    held = chances[mine].sum().item()
    assert held >= p - 1e-9
    assert len(mine) == 1 or held - chances[mine].min().item() < p + 1e-9


def test_seen_tokens_are_penalized_on_both_sides_of_zero():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    assert penalize(logits, torch.tensor([[0, 1, 0]]), 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    choose = penalized(greedy, 4.0)
    assert choose(logits, torch.tensor([[0]]), torch.tensor([[1]])).tolist() == [2]


def test_draws_follow_the_temperature():
    torch.manual_seed(0)
    logits = CHANCES.log().expand(20000, -1)
    for temperature in (0.5, 1.0, 2.0):
        counts = torch.bincount(sampler(temperature=temperature)(logits, many, many), minlength=4) / 20000
        torch.testing.assert_close(counts, (CHANCES[0].log() / temperature).softmax(-1), atol=0.015, rtol=0)


def test_draws_stay_within_top_k_and_top_p_and_repeat_with_a_generator():
    logits = CHANCES.log().expand(500, -1)
    given_seed = [
        sampler(top_k=3, top_p=0.6, generator=torch.Generator().manual_seed(1))(logits, many, many) for _ in range(2)
    ]
    assert torch.equal(*given_seed)
    assert set(given_seed[0].tolist()) == {0, 1}


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_told(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        sampler(**setting)
