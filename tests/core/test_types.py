from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from foveal.core.errors import InputError
from foveal.core.types import Answer, Batch, Gaze, Layout, Looked, Patches, Pixels, Relevance, Stream, VisualTokens

GRIDS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@given(GRIDS)
def test_boxes_tile_each_image(grids):
    layout = Layout.of_grids(grids)
    visual = VisualTokens.on_layout(torch.zeros(layout.total, 2), layout)
    area = (visual.boxes[:, 2] - visual.boxes[:, 0]) * (visual.boxes[:, 3] - visual.boxes[:, 1])
    for i, (start, end) in enumerate(zip(layout.offsets[:-1], layout.offsets[1:], strict=True)):
        assert (visual.image[start:end] == i).all()
        assert torch.isclose(area[start:end].sum(), torch.tensor(1.0))


def test_moving_a_batch_keeps_integers_and_layout():
    layout = Layout.of_grids([(1, 2)])
    ids = torch.zeros(1, 3, dtype=torch.long)
    batch = Batch(
        input_ids=ids,
        valid=ids == 0,
        prompt=ids == 0,
        image_slot=ids,
        visual=VisualTokens.on_layout(torch.zeros(2, 4), layout),
        owner=torch.zeros(1, dtype=torch.long),
    )
    moved = batch.to(torch.float64)
    assert moved.input_ids.dtype == torch.long and moved.valid.dtype == torch.bool
    assert moved.visual.features.dtype == torch.float64 and moved.visual.layout == layout


def test_what_was_found_in_images_moves_with_their_tokens():
    found = Relevance(names=("a",), maps=torch.zeros(1, 1, 2), shares=torch.ones(1, 2) / 2, boxes=torch.zeros(1, 4))
    seen = VisualTokens.on_layout(torch.zeros(4, 8), Layout.of_grids([(1, 2), (1, 2)]))
    gaze = Gaze(led=(True,), bias=torch.zeros(4), looked=(found, None))
    for moved in (replace(seen, looked=(None, found)).to("meta"), gaze.to("meta"), found.to("meta")):
        there = moved if isinstance(moved, Relevance) else next(one for one in moved.looked if one is not None)
        assert there.maps.device.type == there.shares.device.type == there.boxes.device.type == "meta"
        assert there.names == ("a",)
    assert gaze.to("meta").bias.device.type == "meta" and gaze.to("meta").looked[1] is None


def test_whole_pictures_are_one_tile_each():
    pixels = Pixels.whole(torch.zeros(3, 3, 4, 4))
    assert pixels.image.tolist() == [0, 1, 2] and (pixels.tile == -1).all()


def test_frames_of_a_video_are_one_image():
    tiles = Layout.of_grids([(1, 2), (2, 2), (2, 2), (2, 2), (1, 1)])
    layout = tiles.filmed((1, 3, 1))
    assert layout.counts == (2, 12, 1) and layout.grids == ((1, 2), (2, 2), (1, 1)) and layout.frames == (1, 3, 1)
    assert layout.by_frame() == tiles
    visual = VisualTokens.on_layout(torch.arange(15.0)[:, None], layout)
    assert visual.image.tolist() == [0] * 2 + [1] * 12 + [2]
    assert visual.frame.tolist() == [0] * 2 + [0] * 4 + [1] * 4 + [2] * 4 + [0]
    apart = VisualTokens.on_layout(visual.features, tiles)
    joined = apart.filmed((1, 3, 1))
    assert torch.equal(joined.boxes, apart.boxes) and torch.equal(joined.boxes, visual.boxes)
    assert torch.equal(joined.frame, visual.frame) and joined.layout == layout and apart.frame is None


def test_images_alone_are_no_frames():
    tiles = Layout.of_grids([(1, 2), (2, 2)])
    assert tiles.filmed(None) is tiles and tiles.filmed((1, 1)) is tiles and tiles.by_frame() is tiles


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ((2, 3), "5 frames of videos for 3 pictures"),
        ((2, 1), "a video with frames of 2 to 4 tokens"),
        ((0, 3), "a video of 0 frames; give each 1 or more"),
        ((-1, 4), "a video of -1 frames"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames, told):
    with pytest.raises(InputError, match=told):
        Layout.of_grids([(1, 2), (2, 2), (2, 2)]).filmed(frames)


def test_the_frames_of_a_video_are_images_in_a_row():
    pixels = Pixels.whole(torch.zeros(4, 3, 4, 4), (3, 1))
    assert pixels.image.tolist() == [0, 1, 2, 3] and pixels.frames == (3, 1) and (pixels.tile == -1).all()
    assert pixels.to(torch.float64).frames == (3, 1)


def test_a_stream_of_some_places_alone_keeps_what_each_of_them_sees():
    hidden, places = torch.arange(6.0).view(1, 3, 2), torch.arange(3)[None]
    looks = torch.tensor([[[False, True], [True, False], [True, True]]])
    stream = Stream(hidden=hidden, positions=places, slots=places, looks=looks, memory_seen=looks[:, None])
    some = stream.only(torch.tensor([[2, 0]]))
    assert some.hidden.tolist() == [[[4, 5], [0, 1]]] and some.positions.tolist() == [[2, 0]]
    assert some.looks.tolist() == [[[True, True], [False, True]]]
    assert some.memory_seen.tolist() == [some.looks.tolist()]


def test_a_stream_is_known_to_export_and_moves_whole():
    places = torch.arange(3)[None]
    stream = Stream(hidden=torch.zeros(1, 3, 2), positions=places, slots=places)
    leaves, _ = pytree.tree_flatten(stream)
    assert any(leaf is stream.hidden for leaf in leaves)
    moved = stream.to(torch.float64)
    assert moved.hidden.dtype == torch.float64 and moved.slots.dtype == torch.long


def test_answers_are_equal_that_say_and_cost_the_same():
    maps = Relevance(names=("a",), maps=torch.ones(1, 2, 2), shares=torch.ones(2, 2), boxes=torch.ones(1, 4))
    line = torch.arange(2)
    said = [
        Answer(text="two", visual_tokens=4, relevance=(Looked(found=maps, boxes=maps.boxes, rows=line, columns=line),))
        for _ in range(2)
    ]
    assert said[0] == said[1] and hash(said[0]) == hash(said[1])
    assert said[0].relevance[0] != said[1].relevance[0] and maps == maps
    assert said[0] != replace(said[0], text="three")


def test_patches_know_their_layout():
    patches = Patches(values=torch.zeros(20, 6), grids=((1, 2, 4), (2, 2, 3)), block=1)
    assert patches.layout.counts == (8, 12) and patches.layout.grids == ((2, 4), (2, 3))
    assert patches.layout.frames == (1, 2) and patches.to(torch.float64).values.dtype == torch.float64
    with pytest.raises(InputError, match="20 patches for grids of 8"):
        _ = Patches(values=torch.zeros(20, 6), grids=((1, 2, 4),)).layout


def test_places_are_those_of_the_layout_whoever_asked_first():
    film = Layout.of_grids([(5, 2)] * 3).filmed((3,))
    layouts = [Layout.of_grids([(3, 24)]), Layout(counts=(7,), grids=(None,)), film]
    before = torch.get_default_dtype()
    for layout in layouts:
        features = torch.zeros(layout.total, 2)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.inference_mode(), torch.device("meta"):
                VisualTokens.on_layout(features, layout)
        finally:
            torch.set_default_dtype(before)
        first = VisualTokens.on_layout(features, layout)
        assert first.boxes.dtype == first.mass.dtype == torch.float32
        kept = [first.image.clone(), first.boxes.clone()]
        first.image.add_(1)
        first.boxes.mul_(2)
        if first.frame is not None:
            first.frame.add_(1)
        later = VisualTokens.on_layout(features, layout)
        assert torch.equal(later.image, kept[0]) and torch.equal(later.boxes, kept[1])
        assert later.frame is None or later.frame.tolist() == [0] * 10 + [1] * 10 + [2] * 10
        torch.nn.Linear(4, 1)(later.boxes).sum().backward()
