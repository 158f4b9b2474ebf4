import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.data.backgrounds import paint
from foveal.data.render import render
from foveal.data.scenes import SPLITS, SceneConfig, Scenes, split_of

SMALL = SceneConfig(seed=4, size=192, drawings=60)


def test_a_scene_depends_on_seed_and_index_alone():
    one, other = Scenes(SMALL), Scenes(SMALL)
    first = [one[i] for i in (5, 6)]
    second = [other[i] for i in (6, 5)][::-1]
    assert [(s.caption, s.boxes, s.questions, s.image.tobytes()) for s in first] == [
        (s.caption, s.boxes, s.questions, s.image.tobytes()) for s in second
    ]
    assert Scenes(SceneConfig(seed=5, size=192, drawings=60))[5].caption != first[0].caption


def test_pictures_are_rgb_of_the_canvas():
    scene = Scenes(SMALL)[3]
    assert (scene.image.mode, scene.image.size) == ("RGB", (192, 192))
    assert (scene.id, scene.split) == ("s4-000003", "train")
    assert Scenes(SMALL, pairs=True)[3].id == "p4-000003"


@pytest.mark.parametrize("index", range(12))
def test_boxes_are_tight_around_what_is_drawn(index):
    layout = Scenes(SMALL).layout(index)
    picture = np.asarray(render(layout)).astype(int)
    empty = np.asarray(paint(layout.background, layout.width, layout.height)).astype(int)
    changed = np.abs(picture - empty).max(-1) > 24
    for item in layout.drawings:
        left, top, right, bottom = item.xyxy
        inside = changed[top:bottom, left:right]
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert rows[0] <= 1 and columns[0] <= 1
        assert rows[-1] >= bottom - top - 2 and columns[-1] >= right - left - 2
        changed[top:bottom, left:right] = False
    for item in layout.words:
        left, top, right, bottom = item.xyxy
        pad = 2 + item.points // 6 if item.plate else 0
        changed[top - pad : bottom + pad, left - pad : right + pad] = False
    assert not changed.any()


def test_boxes_of_words_are_tight():
    config = SceneConfig(seed=4, size=300, drawings=60)
    for index in range(12):
        layout = Scenes(config).layout(index)
        picture = np.asarray(render(layout)).astype(int)
        for item in layout.words:
            left, top, right, bottom = item.xyxy
            patch = picture[top:bottom, left:right]
            if item.plate:
                ink = np.abs(patch - patch[0, -1]).max(-1) > 30
                rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
                assert rows[0] <= 1 and columns[0] <= 1
                assert rows[-1] >= bottom - top - 2 and columns[-1] >= right - left - 2


def test_captions_name_everything():
    for index in range(20):
        scene = Scenes(SMALL)[index]
        assert scene.caption.startswith("A picture with ") and scene.caption.endswith(".")
        for box in scene.boxes:
            assert box.label[:3] in scene.caption
            assert not box.word or f"the word '{box.label}' in " in scene.caption


def test_splits_are_mixed_and_of_the_right_size():
    found = [split_of(index) for index in range(200)]
    assert [found.count(split) for split in SPLITS] == [160, 20, 20, 0]
    assert {"val", "test"} <= set(found[:12])


def test_pair_scenes_have_a_split_of_their_own():
    assert {Scenes(SMALL, pairs=True)[i].split for i in range(3)} == {"pairs"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 20}, "size 20-20 pixels; both must be 64 to 4096"),
        ({"size": (900, 300)}, "the smaller first"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"drawings": 5}, "scenes need 20 or more"),
        ({"drawings": 500}, "choose 1 to 200"),
        ({"words": 0}, "0 words asked for"),
        ({"max_drawings": 13}, "13 drawings a scene asked for; choose 1 to 12"),
        ({"per_kind": 0}, "give 1 or more"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SceneConfig(**settings)


def test_pairs_need_two_drawings():
    with pytest.raises(InputError, match="max_drawings of 2 or more"):
        Scenes(SceneConfig(max_drawings=1), pairs=True)


def test_scenes_are_counted_from_zero():
    with pytest.raises(IndexError, match="scene -1"):
        Scenes(SMALL)[-1]
    assert next(iter(Scenes(SMALL))).id == "s4-000000"


def test_the_fewest_drawings_make_pairs_too():
    scenes = Scenes(SceneConfig(drawings=20, max_drawings=2, words=1), pairs=True)
    for index in range(40):
        layout = scenes.layout(index)
        assert layout.absent[0] not in {item.name for item in layout.drawings} and layout.absent[0] != layout.hero
