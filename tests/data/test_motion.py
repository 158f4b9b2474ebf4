"""Starter videos: what is said of them is true, and words alone do not tell it."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.data.format import read
from foveal.data.motion import WAYS, MotionConfig, caption, motion, write_motion

CONFIG = MotionConfig(size=96, frames=3)


@pytest.fixture(scope="module")
def made():
    return [motion(CONFIG, index) for index in range(240)]


def test_one_drawing_moves_one_way_and_passes_no_other(made):
    for one in made:
        across, down = WAYS[one.way]
        corners = np.array([item.xyxy for item in one.moves])
        steps = np.diff(corners, axis=0)
        assert (np.sign(steps) == [across, down, across, down]).all() and (steps[:, :2] == steps[:, 2:]).all()
        assert np.abs(corners[-1] - corners[0]).max() >= 0.17 * 96
        assert corners.min() >= 0 and corners.max() <= 96
        left, top, right, bottom = (*corners[:, :2].min(0), *corners[:, 2:].max(0))
        for item in one.stay:
            a, b, c, d = item.xyxy
            assert c <= left or right <= a or d <= top or bottom <= b
        assert 2 <= len(one.stay) <= 4 and len({one.mover, *(item.name for item in one.stay)}) == len(one.stay) + 1


def test_frames_differ_where_the_mover_is_and_nowhere_else(made):
    for one in made[:6]:
        frames = [np.asarray(frame).astype(int) for frame in one.frames()]
        changed = np.abs(frames[0] - frames[-1]).sum(-1) > 0
        for item in (one.moves[0], one.moves[-1]):
            left, top, right, bottom = item.xyxy
            assert changed[top:bottom, left:right].any()
            changed[top:bottom, left:right] = False
        assert not changed.any() and len(frames) == 3


def test_every_drawing_and_every_way_comes_as_often(made):
    assert set(Counter(one.mover for one in made).values()) == {4}
    assert set(Counter(one.way for one in made).values()) == {60}
    shares = Counter((len(one.stay), one.way) for one in made)
    assert min(shares.values()) >= 10
    assert motion(CONFIG, 7) == made[7] and motion(MotionConfig(size=96, frames=3, seed=1), 7) != made[7]


def test_a_set_says_what_is_true(tmp_path):
    made = write_motion(tmp_path / "data", CONFIG, count=40)
    assert made.scenes == {"train": 32, "val": 4, "test": 4} and made.examples["train"] == 160
    found = read(tmp_path / "data")
    truths = {f"m0-{index:06d}": motion(CONFIG, index) for index in range(40)}
    for example in found:
        truth, text = truths[example.meta["scene"]], example.messages[0]["content"][-1]["text"]
        (folder,) = example.images
        assert sorted(path.name for path in folder.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
        said = {
            "caption": caption(truth),
            "mover": truth.mover,
            "way": truth.way,
            "moved": "yes" if f"the {truth.mover} " in text else "no",
        }
        assert example.answer == said[example.meta["kind"]]
        assert example.messages[0]["content"][0] == {"type": "video"}
        assert truth.mover in example.meta["things"] and len(example.meta["things"]) == len(truth.stay) + 1
    moved = Counter(example.answer for example in found if example.meta["kind"] == "moved")
    assert moved == {"yes": 32, "no": 32}
    about = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert about["config"]["frames"] == 3 and "OpenMoji" in (tmp_path / "data" / "ATTRIBUTION.txt").read_text()


def test_a_caption_tells_all_that_is_asked(made):
    for one in made[:40]:
        text = caption(one)
        assert text.endswith(f"the {one.mover} moves {one.way}.") and all(name in text for name in one.things)
        assert len(one.things) == len(one.stay) + 1 and one.things == sorted(one.things)


def test_the_bytes_are_the_same_for_any_number_of_processes(tmp_path):
    for workers in (1, 2):
        write_motion(tmp_path / str(workers), MotionConfig(size=64), count=18, workers=workers, codec="png")
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(files) == 18 * 2 + 5
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files)
    with Image.open(tmp_path / "1" / "videos" / "m0-000017" / "1.png") as opened:
        assert opened.size == (64, 64)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 32}, "32 pixels"),
        ({"seed": -1}, "seed -1"),
        ({"things": (1, 3)}, "1 to 3 things"),
        ({"things": (4, 3)}, "4 to 3 things"),
        ({"frames": 1}, "1 frames"),
        ({"drawings": 4}, "4 drawings for 5 things"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        MotionConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"count": 0}, "0 videos asked for"), ({"workers": 0}, "0 workers"), ({"codec": "gif"}, "unknown image format")],
)
def test_impossible_wishes_are_refused(tmp_path, settings, told):
    with pytest.raises(InputError, match=told):
        write_motion(tmp_path / "data", CONFIG, **{"count": 2, **settings})
