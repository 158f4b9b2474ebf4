from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.layers.looking import as_told, by_markers


def stream(slots, **parts):
    slots = torch.tensor(slots)
    return Stream(hidden=torch.zeros(*slots.shape, 1), positions=torch.zeros_like(slots), slots=slots, **parts)


def images(*counts):
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    return VisualTokens.on_layout(torch.zeros(sum(counts), 1), layout)


def sees(view):
    """For each row and token, the visual tokens that it sees, in order."""
    return [[index[seen].tolist() for seen in tokens[0]] for index, tokens in zip(view.index, view.seen, strict=True)]


def test_text_sees_the_last_image_before_it_or_all():
    given = stream([[-1, 0, -1, 2, -1]]), images(2, 2)
    assert sees(by_markers(*given, last=True)) == [[[], [0, 1], [0, 1], [2, 3], [2, 3]]]
    assert sees(by_markers(*given, last=False)) == [[[], [0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]]


def test_text_sees_images_that_no_word_parts_together():
    given = stream([[-1, 0, 1, -1, 2, -1, -1]]), images(1, 1, 1)
    assert sees(by_markers(*given, last=False, together=True)) == [[[], [0], [0, 1], [0, 1], [2], [2], [2]]]
    given = stream([[0, 1, 2, 3, -1]]), images(2, 2)
    assert sees(by_markers(*given, last=False, together=True))[0][-1] == [0, 1, 2, 3]


def test_rows_of_different_images_of_different_sizes():
    view = by_markers(stream([[0, -1, 1], [-1, -1, -1], [4, -1, -1]]), images(1, 3, 2), last=False)
    assert sees(view) == [[[0], [0], [0, 1, 2, 3]], [[], [], []], [[4, 5]] * 3]
    assert view.there.sum(-1).flatten().tolist() == [4, 0, 2]


def test_rows_may_share_an_image_in_any_order():
    view = by_markers(stream([[0, 2, -1], [2, 0, -1]]), images(2, 2), last=True)
    assert sees(view) == [[[0, 1], [2, 3], [2, 3]], [[2, 3], [0, 1], [0, 1]]]


def test_an_image_of_many_places_is_one():
    view = by_markers(stream([[0, 1, -1, 2, 3, -1]]), images(2, 2), last=True)
    assert sees(view) == [[[0, 1]] * 3 + [[2, 3]] * 3]


def test_segments_keep_to_themselves():
    parts = {"segment": torch.tensor([[0, 0, 0, 1, 1, 1]])}
    view = by_markers(stream([[0, -1, -1, -1, 2, -1]], **parts), images(2, 2), last=False)
    assert sees(view) == [[[0, 1]] * 3 + [[], [2, 3], [2, 3]]]


def test_branches_see_the_trunk_and_themselves():
    parts = {"branch": torch.tensor([[0, 0, 1, 1, 2, 2, 3]])}
    slots = [[0, -1, 1, -1, -1, 2, -1]]
    last = by_markers(stream(slots, **parts), images(1, 1, 1), last=True)
    assert sees(last) == [[[0], [0], [1], [1], [0], [2], [0]]]
    every = by_markers(stream(slots, **parts), images(1, 1, 1), last=False)
    assert sees(every) == [[[0], [0], [0, 1], [0, 1], [0], [0, 2], [0]]]


def test_what_is_told_counts_the_images_of_its_own_row():
    looks = torch.tensor([[[0, 1], [1, 1]], [[1, 1], [0, 0]]]).bool()
    view = as_told(looks, torch.tensor([1, 0, 0]), images(2, 1, 2))
    assert sees(view) == [[[3, 4], [2, 3, 4]], [[0, 1], []]]


def test_parts_of_images_may_be_told_of():
    looks = torch.tensor([[[[1, 0], [0, 1]], [[0, 0], [1, 1]]], [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]]).bool()
    view = as_told(looks, torch.tensor([0, 0, 1]), images(4, 4, 4))
    assert sees(view) == [[[0, 1, 6, 7], [4, 5, 6, 7]], [[10, 11], [8, 9]]]
    assert view.there.sum(-1).flatten().tolist() == [8, 4]
    with pytest.raises(InputError, match=r"images of \(4, 2\) tokens in 2 parts each"):
        as_told(looks, torch.tensor([0, 1]), images(4, 2))
    with pytest.raises(InputError, match=r"images of \(3, 3\) tokens in 2 parts each"):
        as_told(looks, torch.tensor([0, 1]), images(3, 3))


def test_hidden_tokens_are_there_and_seen_by_none():
    hidden = replace(images(2, 2), masked=torch.tensor([False, True, True, False]))
    view = by_markers(stream([[-1, 0, 2]]), hidden, last=False)
    assert sees(view) == [[[], [0], [0, 3]]] and view.there.all()
    told = as_told(torch.ones(1, 2, 2).bool(), torch.tensor([0, 0]), hidden)
    assert sees(told) == [[[0, 3], [0, 3]]]


def test_more_images_than_are_told_of():
    with pytest.raises(InputError, match="a row has 2 images, but its looks tell of 1"):
        as_told(torch.ones(1, 3, 1).bool(), torch.tensor([0, 0]), images(1, 1))


def test_what_a_budget_left_of_an_image_in_parts_is_seen_as_a_whole():
    cut = replace(images(3, 3), before=Layout(counts=(8, 8), grids=(None, None)))
    looks = torch.zeros(2, 3, 1, 4, dtype=torch.bool)
    looks[0, 1:] = looks[1, 2:] = True
    assert sees(as_told(looks, torch.arange(2), cut)) == [[[], [0, 1, 2], [0, 1, 2]], [[], [], [3, 4, 5]]]
    looks[0, 2, 0, 3] = False
    with pytest.raises(InputError, match="looks tell the parts of an image apart, and a budget has cut across these"):
        as_told(looks, torch.arange(2), cut)
