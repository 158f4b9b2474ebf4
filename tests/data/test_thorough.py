"""Damaged pictures are found with their line, and ids that stand twice."""

import json

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example, Held
from foveal.data.format import chat, located
from foveal.data.thorough import thorough


def written(folder, *rows):
    lines = [json.dumps({"id": id, "images": [image], "messages": chat("what", "this")}) for id, image in rows]
    (folder / "train.jsonl").write_text("\n\n".join(lines))
    return folder / "train.jsonl"


def test_a_truncated_picture_is_told_with_its_line(tmp_path):
    Image.effect_noise((64, 64), 99).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    file = written(tmp_path, ("a", "whole.png"), ("b", "cut.png"))
    assert len(list(located(file))) == 2, "its head is whole"
    with pytest.raises(InputError, match=r"train.jsonl:3: .*cut.png is damaged or truncated"):
        list(thorough(file, repeated={}))


def test_each_picture_is_opened_once_and_each_repeated_id_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    opened, repeated, told = [], {}, []
    monkeypatch.setattr("foveal.preprocess.image.open_image", opened.append)
    file = written(tmp_path, ("a", "one.png"), ("b", "one.png"), ("a", "one.png"))
    assert [example.id for example in thorough(file, repeated=repeated, progress=told.append)] == ["a", "b", "a"]
    assert opened == [tmp_path / "one.png"] and told == [1, 2, 3]
    assert repeated == {f"{file}:5": "a"}


def test_a_picture_in_memory_is_opened_once(tmp_path, monkeypatch):
    one, opened = Held(b"one"), []
    rows = [Example(id=str(i), images=images, messages=()) for i, images in enumerate([(one, one), (), (one,)])]
    monkeypatch.setattr("foveal.preprocess.image.open_image", opened.append)
    monkeypatch.setattr("foveal.data.thorough.located", lambda source, split: (("here", row) for row in rows))
    assert len(list(thorough(tmp_path, repeated={}))) == 3 and opened == [one]


def test_boxes_of_the_stored_picture_are_told_by_the_size_they_name(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 16)).save(tmp_path / "turned.jpg", exif=exif)
    row = {"id": "a", "images": ["turned.jpg"], "messages": chat("what", "this"),
           "boxes": [{"label": "fox", "xyxy": [1, 2, 9, 9]}]}  # fmt: skip
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({**row, "meta": {"size": [16, 20]}}))
    assert len(list(thorough(file, repeated={}))) == 1
    file.write_text(json.dumps({**row, "meta": {"size": [20, 16]}}))
    with pytest.raises(InputError, match=r"jsonl:1: 'size' in 'meta' is 20 x 16 but turned.jpg is 16 x 20 pixels up"):
        list(thorough(file, repeated={}))
