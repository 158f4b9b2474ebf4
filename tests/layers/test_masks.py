import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.layers.masks import attention_mask, beside_queries, in_conversation


def seen(mask):
    return [[k for k, yes in enumerate(row) if yes] for row in mask[0, 0].tolist()]


def test_causal_by_default_and_blind_to_padding():
    valid = torch.tensor([[False, True, True, True, False]])
    assert seen(attention_mask(valid, queries=5)) == [[0], [1], [1, 2], [1, 2, 3], [1, 2, 3]]


def test_padding_sees_itself_where_it_sees_nothing_else():
    valid = torch.tensor([[False, True, False], [False, False, False]])
    flat = torch.zeros_like(valid, dtype=torch.long)
    mask = attention_mask(valid, queries=3, order=flat)
    assert seen(mask[:1]) == [[1], [1], [1]]
    assert seen(mask[1:]) == [[0], [1], [2]]


def test_equal_order_is_bidirectional_and_a_prefix_may_be():
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert seen(attention_mask(valid, queries=4, order=torch.zeros(1, 4, dtype=torch.long))) == [[0, 1, 2, 3]] * 4
    order = torch.tensor([[0, 0, 0, 1]])
    assert seen(attention_mask(valid, queries=4, order=order)) == [[0, 1, 2]] * 3 + [[0, 1, 2, 3]]


def test_segments_are_strangers_and_branches_share_a_trunk():
    valid = torch.ones(1, 6, dtype=torch.bool)
    segment = torch.tensor([[0, 0, 1, 1, 1, 1]])
    branch = torch.tensor([[0, 0, 0, 1, 2, 2]])
    expected = [[0], [0, 1], [2], [2, 3], [2, 4], [2, 4, 5]]
    assert seen(attention_mask(valid, queries=6, segment=segment, branch=branch)) == expected


@settings(deadline=None, max_examples=40)
@given(data=st.data(), length=st.integers(1, 8))
def test_last_queries_are_the_last_rows_of_the_whole_and_see_something(data, length):
    def draw(most):
        return torch.tensor([data.draw(st.lists(st.integers(0, most), min_size=length, max_size=length))])

    valid, segment, branch = draw(1).bool(), draw(2), draw(2)
    queries = data.draw(st.integers(1, length))
    whole = attention_mask(valid, queries=length, segment=segment, branch=branch)
    assert torch.equal(
        attention_mask(valid, queries=queries, segment=segment, branch=branch), whole[:, :, length - queries :]
    )
    assert whole.any(-1).all()


def test_queries_and_keys_may_be_any_places():
    segment, branch = torch.tensor([[0, 0, 0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 2, 0, 1]])
    whole = in_conversation(torch.ones(1, 6, 6, dtype=torch.bool), segment, branch)
    queries, keys = torch.tensor([[5, 1, 3]]), torch.tensor([[0, 4, 2, 3]])
    some = in_conversation(torch.ones(1, 3, 4, dtype=torch.bool), segment, branch, queries=queries, keys=keys)
    assert torch.equal(some[0], whole[0][queries[0]][:, keys[0]])
    assert some[0].int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("sees", "expected"),
    [
        ("own", [[0, 1], [0, 1], [2, 3, 4], [2, 3, 4], [2, 3, 4]]),
        ("earlier", [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]),
        ("all", [[0, 1, 2, 3, 4]] * 5),
    ],
)
def test_two_queries_beside_three_words_by_each_of_the_three_rules(sees, expected):
    assert seen(beside_queries(torch.ones(1, 3, dtype=torch.bool), queries=2, sees=sees)) == expected
    padded = beside_queries(torch.tensor([[True, True, False]]), queries=2, sees=sees)
    assert seen(padded)[:4] == [[key for key in row if key < 4] for row in expected[:4]]
    assert padded.any(-1).all()
