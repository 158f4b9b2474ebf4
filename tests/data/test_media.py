"""Examples that show videos: read, checked, counted, pictured and written back."""

import json

import numpy as np
import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import is_film
from foveal.data.convert import convert
from foveal.data.format import chat, encode, image_size, read
from foveal.data.media import pictures, strip
from foveal.data.preview import picture
from foveal.data.shards import write_shard
from foveal.data.statistics import summary


@pytest.fixture
def folder(tmp_path):
    """Two clips of three frames each, and a picture."""
    Image.new("RGB", (20, 16), (9, 9, 9)).save(tmp_path / "a.png")
    for clip in ("one", "two"):
        (tmp_path / clip).mkdir()
        for number in range(3):
            Image.new("RGB", (12, 10), (80 * number, 0, 0)).save(tmp_path / clip / f"{number}.png")
    return tmp_path


def content(*kinds):
    return [*({"type": kind} for kind in kinds), {"type": "text", "text": "What moved?"}]


def row(*kinds, **fields):
    messages = [{"role": "user", "content": content(*kinds)}, {"role": "assistant", "content": "the fox"}]
    return {"id": "7", "messages": messages, **fields}


def put(folder, *rows):
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def test_videos_stand_among_the_images_as_shown(folder):
    mixed = row("video", "image", "video", images=["a.png"], videos=["two", "one"])
    alone = row("video", videos=["one"])
    put(folder, mixed, alone, {**alone, "images": []})
    first, second, third = read(folder)
    assert first.images == (folder / "two", folder / "a.png", folder / "one")
    assert second.images == third.images == (folder / "one",)
    again = json.loads(encode(first, folder))
    assert (again["images"], again["videos"]) == (["a.png"], ["two", "one"])
    assert json.loads(encode(second, folder))["images"] == []
    (folder / "other.jsonl").write_text(encode(first, folder) + "\n")
    assert read(folder / "other.jsonl") == [first]


def test_chat_asks_about_a_video():
    assert chat("What?", "a", kind="video")[0]["content"][0] == {"type": "video"}


@pytest.mark.parametrize(
    ("kinds", "fields", "told"),
    [
        (["video"], {"videos": ["one", "two"]}, "1 video markers but 2 videos"),
        (["image"], {"videos": ["one"]}, "1 image markers but 0 images"),
        (["video"], {"images": ["a.png"]}, "0 image markers but 1 images"),
        (["video"], {"videos": ["three"]}, "names the video 'three', which is not in"),
        (["video"], {"videos": ["a.png"]}, "names the video 'a.png'; a video is a directory of frames"),
        (["video"], {"videos": "one"}, "'videos' is a str; it must be a list"),
        (["video"], {"videos": [1]}, "'videos' holds a int"),
        (["clip"], {"images": []}, "unknown content type 'clip'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(folder, kinds, fields, told):
    with pytest.raises(InputError, match=r"train.jsonl:1: " + told):
        read(put(folder, row(*kinds, **fields)))


def test_boxes_are_those_of_images(folder):
    box = {"label": "fox", "xyxy": [1, 2, 8, 9]}
    (example,) = read(put(folder, row("video", "image", images=["a.png"], videos=["one"], boxes=[{"image": 1, **box}])))
    assert example.boxes[0].image == 1
    with pytest.raises(InputError, match="box 'fox' is on a video"):
        read(put(folder, row("video", videos=["one"], boxes=[{"image": 0, **box}])))


def test_a_video_is_counted_and_sized_by_its_frames(folder):
    told = summary(read(put(folder, row("video", videos=["one"]), row("image", images=["a.png"]))))
    assert (told["images"], told["videos"], told["sizes"]["width"]) == (2, 1, [12, 20, 20])
    assert "videos" not in summary(read(put(folder, row("image", images=["a.png"]))))
    assert image_size(str(folder / "two")) == (12, 10)


def test_frames_are_pictured_side_by_side(folder):
    assert [one.getpixel((0, 0))[0] for one in pictures(folder / "one")] == [0, 80, 160]
    assert len(pictures(folder / "a.png")) == 1 and strip(folder / "a.png").size == (20, 16)
    assert [strip(folder / "one").getpixel((12 * place, 0))[0] for place in range(3)] == [0, 80, 160]
    shown = np.asarray(picture(read(put(folder, row("video", videos=["one"]))), side=90))
    assert [shown[45, 15 + 30 * place, 0] for place in range(3)] == [0, 80, 160]


def test_a_shard_holds_no_video(folder):
    with pytest.raises(InputError, match="a shard holds no videos"):
        write_shard(folder / "a.tar", read(put(folder, row("video", videos=["one"]))))
    assert not (folder / "a.tar").exists()


def test_what_is_a_film_by_its_name(folder):
    assert is_film(folder / "one") and is_film("b.MKV") and not is_film(folder / "a.png")


def test_video_conversations_are_converted(folder):
    turns = [{"from": "human", "value": "<video>\nWhat moved?"}, {"from": "gpt", "value": "the fox"}]
    image = [{"from": "human", "value": "<image>\nWhat moved?"}, {"from": "gpt", "value": "the fox"}]
    both = [{"from": "human", "value": "<image>\nthen <video>\nWhat moved?"}, {"from": "gpt", "value": "the fox"}]
    rows = [
        {"id": "1", "video": "one", "conversations": turns},
        {"id": "2", "video": "two", "conversations": image},
        {"id": "3", "video": "two", "image": "a.png", "conversations": both},
    ]
    (folder / "talk.json").write_text(json.dumps(rows))
    convert(folder / "talk.json", folder / "out", "llava", copy=True)
    found = read(folder / "out")
    assert [one.images for one in found] == [
        (folder / "out" / "images" / "one",),
        (folder / "out" / "images" / "two",),
        (folder / "out" / "images" / "a.png", folder / "out" / "images" / "two"),
    ]
    assert all(one.messages[0]["content"][-2]["type"] == "video" for one in found)
    assert len(list((folder / "out" / "images" / "one").iterdir())) == 3
