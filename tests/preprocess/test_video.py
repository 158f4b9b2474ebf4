"""Videos: which frames are looked at, and that they are those of the file."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import Layout
from foveal.preprocess import video
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, Video, chosen, is_video, open_video, paced, timed, uniform


@given(st.integers(1, 400), st.integers(1, 60))
def test_uniform_frames_are_spread_from_end_to_end(total, count):
    found = uniform(total, count)
    assert len(found) == min(total, count) and list(found) == sorted(set(found))
    assert found[0] >= 0 and found[-1] < total
    if count > 1:
        assert found[0] == 0 and found[-1] == total - 1
        steps = np.diff(found)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_uniform_frames_by_hand():
    assert uniform(10, 4) == (0, 3, 6, 9)
    assert uniform(9, 1) == (4,)
    assert uniform(3, 8) == (0, 1, 2)


@pytest.mark.parametrize(
    ("seconds", "fps", "found"),
    [
        ([0.0, 0.5, 1.0, 1.5, 2.0], 1.0, (0, 2, 4)),
        ([5.0, 5.5, 6.0, 6.5], 1.0, (0, 2)),
        ([0.0, 0.4, 0.8, 1.2, 1.6], 1.0, (0, 2)),
        ([0.0, 1.0, 2.0], 30.0, (0, 1, 2)),
        ([0.0, 10.0], 1e9, (0, 1)),
        ([3.0], 2.0, (0,)),
    ],
)
def test_paced_frames_are_those_shown_at_the_instants(seconds, fps, found):
    assert paced(seconds, fps) == found


def test_pace_and_number_go_together():
    seconds = [i / 10 for i in range(100)]
    assert chosen(seconds, Frames(fps=1.0, count=20)) == tuple(range(0, 100, 10))
    assert chosen(seconds, Frames(fps=1.0, count=4)) == (0, 30, 60, 90)


@pytest.mark.parametrize("settings", [{"count": 0}, {"fps": 0.0}, {"rate": -1.0}, {"ticks": -2}])
def test_numbers_out_of_range_are_refused(settings):
    (value,) = settings.values()
    with pytest.raises(InputError, match=str(value)):
        Frames(**settings)


def test_seconds_are_places_in_time_where_ticks_are_told():
    film, frames = Video(frames=("a",) * 6, seconds=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5)), Frames(count=3, ticks=4)
    layout = Layout(counts=(1, 3), grids=((1, 1), (1, 1)), frames=(1, 3))  # 3 of 6 frames: one a second
    assert timed(layout, ["p.png", film], frames) == replace(layout, moments=((0,), (0, 4, 8)))
    for still, how in ((["p.png", "q.png"], frames), (["p.png", film], Frames(count=3)), (["p.png", film], None)):
        assert timed(layout, still, how) is layout


@pytest.fixture
def folder(tmp_path):
    """Twelve frames, the tenth named `f10.png`; each has a colour of its own."""
    place = tmp_path / "clip"
    place.mkdir()
    for number in range(12):
        Image.new("RGB", (10, 6), (20 * number, 0, 0)).save(place / f"f{number}.png")
    (place / "notes.txt").write_text("no frame")
    (place / ".f99.png").write_bytes(b"")
    return place


def reds(shown):
    opened = [one if isinstance(one, Image.Image) else Image.open(one) for one in shown.frames]
    return [one.convert("RGB").getpixel((0, 0))[0] for one in opened]


def test_a_directory_is_in_natural_order(folder):
    shown = open_video(folder, Frames(count=12, rate=4.0))
    assert reds(shown) == [20 * number for number in range(12)]
    assert shown.seconds == tuple(number / 4 for number in range(12))
    assert reds(open_video(folder, Frames(count=3))) == [0, 120, 220]


def test_an_opened_video_is_sampled_too(folder):
    whole = open_video(str(folder), Frames(count=12))
    assert open_video(whole, Frames(count=2)).seconds == (0.0, 11.0)
    with pytest.raises(InputError, match="2 frames with 1 times"):
        Video(frames=(1, 2), seconds=(0.0,))


def test_what_is_a_video(folder):
    assert is_video(folder) and is_video(str(folder)) and is_video("a.MP4") and is_video(open_video(folder))
    assert not is_video(folder / "f0.png") and not is_video(Image.new("RGB", (2, 2))) and not is_video("a.gif")
    with pytest.raises(InputError, match=r"parts of videos are not made here, and .*clip is one"):
        video.refuse([folder / "f0.png", folder], "parts")
    assert video.refuse([folder / "f0.png"], "parts") is None


def test_the_extent_of_a_picture_and_of_a_video(folder):
    assert video.extent(folder) == video.size(folder) == video.extent(video.listed(folder)[0])


def test_frames_become_images_in_a_row(folder):
    transform, frames = ImageTransform(size=4), Frames(count=3)
    images = [folder / "f7.png", folder]
    assert video.counts(images, frames) == (1, 3) and video.counts(images[:1], frames) is None
    found = video.pixels(images, transform, frames)
    assert found.frames == (1, 3) and found.image.tolist() == [0, 1, 2, 3]
    for value, name in zip(found.values, ("f7", "f0", "f6", "f11"), strict=True):
        assert torch.equal(value, transform(folder / f"{name}.png"))
    assert video.pixels(images[:1], transform, frames).frames is None
    assert video.pixels([], transform, frames).values.shape == (0, 3, 4, 4)
    assert video.size(folder) == (6, 10)


def test_a_directory_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="holds 1 files and 0 pictures"):
        open_video(tmp_path)


def test_without_the_package_directories_still_work(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(open_video(folder).frames) == 8
    (folder / "a.mp4").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"foveal\[video\]"):
        open_video(folder / "a.mp4")
