"""Masks, keypoints and words as tokens, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.preprocess.outlines import area
from foveal.preprocess.sequence import SequenceCodec, class_led, torch_port
from foveal.preprocess.tasks import (
    TASKS,
    TaskCodec,
    behind,
    decode_mask,
    decode_points,
    encode_mask,
    encode_points,
    legal_mask,
    legal_points,
    legal_words,
)

CODECS = {
    "official": TaskCodec(objects=SequenceCodec(), words=50),
    "few bins": TaskCodec(objects=SequenceCodec(bins=9, classes=3), words=5, text_shift=1009),
    "port": behind(torch_port(classes=20, bins=224), 50),
    "class first": behind(class_led(), 50),
}
point = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32))


def test_the_tokens_are_the_references():
    codec = CODECS["official"]
    assert {task: codec.start(task) for task in TASKS} == {
        "detect": 10, "mask": 11, "keypoints": 12, "caption": 13, "find": 14
    }  # fmt: skip
    assert (codec.separator, codec.invisible, codec.text_tokens) == (40, 41, range(3000, 3050))
    assert codec.vocabulary == 3050 and codec.stop == 0
    led = CODECS["class first"]
    assert led.mask == led.objects.vocabulary == 1084 and led.vocabulary == led.text_tokens.stop == 1084 + 6 + 50
    assert led.stop == led.objects.end


@pytest.mark.parametrize("changed", [{"mask": 10}, {"text_shift": 1500}, {"separator": 11}, {"find": 101}])
def test_tokens_that_overlap_are_refused(changed):
    with pytest.raises(InputError, match="shift them apart"):
        TaskCodec(objects=SequenceCodec(), words=5, **changed)


@pytest.mark.parametrize("name", CODECS)
@given(rows=st.lists(st.tuples(point, st.booleans()), max_size=8))
def test_points_there_and_back_are_within_half_a_bin(name, rows):
    codec = CODECS[name]
    points = torch.tensor([row[0] for row in rows]).view(-1, 2)
    seen = torch.tensor([row[1] for row in rows], dtype=torch.bool)
    tokens = encode_points(codec, points, seen)
    back, there = decode_points(codec, tokens)
    assert len(tokens) == 2 * len(rows) and torch.equal(there, seen)
    most = (0.5 if codec.objects.rounding == "nearest" else 1.0) / (codec.objects.bins - 1) + 1e-6
    assert ((back - points).abs() <= most)[seen].all()
    assert codec.objects.rounding == "floor" or torch.equal(encode_points(codec, back, seen), tokens)


@pytest.mark.parametrize("name", CODECS)
@given(rows=st.lists(st.lists(point, min_size=3, max_size=6), min_size=1, max_size=3))
def test_masks_there_and_back_and_every_token_is_legal(name, rows):
    codec = CODECS[name]
    polygons = [torch.tensor(row) for row in rows]
    tokens = torch.cat([encode_mask(codec, polygons), torch.tensor([codec.stop])])
    rule = legal_mask(codec, codec.vocabulary + 2)
    for place, token in enumerate(tokens):
        assert rule(tokens[None, :place])[0, token]
    back = decode_mask(codec, tokens)
    exact = [decode_points(codec, encode_points(codec, polygon))[0] for polygon in polygons]
    assert [one.tolist() for one in back] == [one.tolist() for one in exact if area(one) > 0]


def test_the_order_of_axes_is_that_of_objects():
    half = torch.tensor([[0.0, 0.5]])
    assert encode_points(TaskCodec(objects=SequenceCodec(bins=5), words=0), half).tolist() == [1002, 1000]
    assert encode_points(CODECS["class first"], half).tolist() == [0, 500]
    outside = torch.tensor([[-3.0, 9.0]])
    assert encode_points(CODECS["class first"], outside).tolist() == [0, 999]


def test_what_is_cut_off_or_misplaced_is_left_out():
    codec = CODECS["official"]
    good = [1000, 1000, 1500, 1000, 1500, 1500]
    tokens = [*good, 40, 40, 1000, 1000, 1900, 1000, 40, 40, *good, 1200, 40, *good[:-1]]
    found = decode_mask(codec, torch.tensor(tokens))
    assert [len(one) for one in found] == [3, 3]
    assert len(decode_mask(codec, torch.tensor([*good, 0, 0, *good]))) == 1
    assert decode_mask(codec, torch.tensor([0])) == [] and encode_mask(codec, []).tolist() == []


def test_a_polygon_has_three_points_before_it_may_end():
    codec = CODECS["few bins"]
    rule = legal_mask(codec, codec.vocabulary)
    new = torch.full((2, 6), 1004)
    new[1, 4:] = codec.separator
    first, second = rule(new)
    assert first[[codec.separator, codec.stop]].all() and not second[[codec.separator, codec.stop]].any()
    assert rule(new[:, :0]).shape[-1] == codec.vocabulary and not rule(new[:, :0])[0, codec.stop]
    assert rule(new[:, :5])[1].nonzero().tolist() == [[codec.separator]]
    assert rule(new[:, :5])[0].nonzero()[:, 0].tolist() == list(codec.objects.coordinate_tokens)


def test_points_are_places_and_words_are_words():
    codec = CODECS["official"]
    assert legal_points(codec, 3060)[0].nonzero()[:, 0].tolist() == list(range(1000, 2000))
    assert legal_words(codec, 3060, special=(0, 3))[0].nonzero()[:, 0].tolist() == [0, 3001, 3002, *range(3004, 3050)]
