import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from foveal.core.example import Box, Example
from foveal.data.drawings import names, rendered
from foveal.data.scenes import SceneConfig, Scenes
from foveal.data.shapes import MOST, POINTS, drawn, outlines, shape, with_shapes
from foveal.preprocess.outlines import area

RING = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 0]], dtype=bool)


def filled(polygons, size):
    """The pixels within polygons of points in pixels."""
    picture = Image.new("1", size)
    for polygon in polygons:
        ImageDraw.Draw(picture).polygon([(x - 0.5, y - 0.5) for x, y in polygon], fill=1)
    return np.asarray(picture)


def test_borders_run_along_the_pixels_and_pass_over_holes():
    loops = sorted(outlines(RING), key=len)
    assert [area(torch.tensor(loop).double()) for loop in loops] == [
        1,
        10,
    ]  # the ring of 9 pixels, its hole, and the one beside
    assert set(loops[0]) == {(4, 1), (5, 1), (5, 2), (4, 2)}


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=6))
def test_every_pixel_lies_within_a_border(rows):
    ink = np.array(rows)
    enclosed = sum(area(torch.tensor(loop, dtype=torch.float64)) for loop in outlines(ink))
    assert enclosed >= ink.sum() and (ink.any() or enclosed == 0)
    assert all(len(set(loop)) >= 4 for loop in outlines(ink))


@pytest.mark.parametrize("name", names(20))
def test_an_outline_covers_the_ink_of_its_drawing(name):
    known, ink = shape(name), np.asarray(rendered(name, 160).getchannel("A")) >= 128
    assert sum(map(len, known.polygons)) + len(known.polygons) - 1 <= MOST
    polygons = [[(x * ink.shape[1], y * ink.shape[0]) for x, y in one] for one in known.polygons]
    mask = filled(polygons, ink.shape[::-1])
    assert (mask & ink).sum() / (mask | ink).sum() > 0.85
    assert all(0 <= value <= 1 for one in (*known.polygons, known.points) for point in one for value in point)


def test_keypoints_are_where_the_ink_reaches_farthest():
    left, top, right, bottom, middle = shape("fox").points
    assert (left[0], top[1], right[0], bottom[1]) == (0, 0, 1, 1) and 0.3 < middle[0] < 0.7
    assert len(shape("fox").points) == len(POINTS)


def test_drawings_of_a_scene_get_their_shapes_and_words_none():
    scenes = Scenes(SceneConfig(seed=3, size=128, drawings=20))
    scene = next(scenes[index] for index in range(50) if any(thing.word for thing in scenes[index].boxes))
    boxes = tuple(Box(label=thing.label, xyxy=tuple(map(float, thing.xyxy))) for thing in scene.boxes)
    words = [place for place, thing in enumerate(scene.boxes) if thing.word]
    one = Example(id="1", messages=(), boxes=boxes, meta={"words": words})
    first, second = with_shapes([one, replace(one, id="2")])
    assert first.boxes is second.boxes and first.meta["keypoints"] == POINTS
    for place, box in enumerate(first.boxes):
        assert bool(box.segmentation) == bool(box.keypoints) == (place not in words)
        assert box.xyxy == boxes[place].xyxy
    box = first.boxes[0]
    xs = [value for polygon in box.segmentation for value in polygon[0::2]]
    assert box.xyxy[0] - 0.01 <= min(xs) and max(xs) <= box.xyxy[2] + 0.01


def test_starter_scenes_know_themselves(tmp_path):
    assert not drawn(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"made_by": "foveal data scenes"}))
    assert drawn(tmp_path) and drawn(tmp_path / "train.jsonl") and not drawn(Path("nowhere"))


@pytest.mark.parametrize("told", ["[1]", "{", "[" * 100_000, "\ufeff"])
def test_what_others_note_beside_their_data_is_none_of_ours(tmp_path, told):
    (tmp_path / "dataset.json").write_text(told, encoding="utf-8")
    assert not drawn(tmp_path)
