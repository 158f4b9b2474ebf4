import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.data.format import Checker, chat, encode, grouped, image_size, iterate, read, said, write
from foveal.data.places import fingerprint, locate, splits
from foveal.data.shards import write_shard

LINE = {
    "id": "7",
    "images": ["a.png"],
    "messages": chat("Where is the fox?", "left"),
    "boxes": [{"image": 0, "label": "fox", "xyxy": [1, 2, 11.5, 12]}],
    "meta": {"kind": "where", "scene": "s"},
}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 16)).save(tmp_path / name)
    return tmp_path


def put(folder, *rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)
    return folder


def test_an_example_is_read_whole(folder):
    (example,) = read(put(folder, LINE))
    assert (example.id, example.images, example.meta) == ("7", (folder / "a.png",), {"kind": "where", "scene": "s"})
    assert example.boxes == (Box(label="fox", xyxy=(1.0, 2.0, 11.5, 12.0)),)
    assert (said(example, "user"), said(example, "assistant")) == (["Where is the fox?"], ["left"])


def test_choices_are_the_answers_to_pick_from(folder):
    (example,) = read(put(folder, offered(["top", " left"])))
    assert (example.choices, example.answer) == (("top", "left"), "left")
    assert read(put(folder, LINE))[0].choices == ()


def test_a_plain_text_message_becomes_a_list(folder):
    row = {"id": "1", "images": [], "messages": [{"role": "user", "content": "Hello"}]}
    (example,) = read(put(folder, row, ""))
    assert example.messages[0]["content"] == [{"type": "text", "text": "Hello"}]


def without(name):
    return {key: value for key, value in LINE.items() if key != name}


def offered(choices, **more):
    return {**LINE, "meta": {"choices": choices}, **more}


def boxed(xyxy, **more):
    return {**LINE, "boxes": [{"label": "fox", "xyxy": xyxy, **more}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", r"train.jsonl:2: not JSON \(Expecting property name .* column 2\); mend or remove it"),
        ("[1]", "train.jsonl:2: a list, not an object; one line is one example"),
        (without("id"), "train.jsonl:2: lacks the field 'id'"),
        (without("images"), "lacks the field 'images'"),
        (without("messages"), "lacks the field 'messages'"),
        ({**LINE, "images": "a.png"}, "'images' is a str; it must be a list"),
        ({**LINE, "images": [3]}, "'images' holds a int; give file names"),
        ({**LINE, "images": ["c.png"]}, "names the image 'c.png', which is not in "),
        ({**LINE, "images": []}, "1 image markers but 0 images; give each image one marker"),
        ({**LINE, "images": ["a.png", "b.png"]}, "1 image markers but 2 images"),
        ({**LINE, "messages": []}, "no messages"),
        ({**LINE, "messages": ["hi"]}, "a message without role or content"),
        ({**LINE, "messages": [{"role": "usr", "content": "x"}]}, "unknown role 'usr'; did you mean 'user'"),
        ({**LINE, "messages": [{"role": "user", "content": 3}]}, "content is a int; give a list or a text"),
        ({**LINE, "messages": [{"role": "user", "content": [{"type": "img"}]}]}, "unknown content type 'img'"),
        ({**LINE, "messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a text part without 'text'"),
        ({**LINE, "meta": []}, None),
        ({**LINE, "meta": [1]}, "'meta' is a list"),
        ({**LINE, "boxes": {"a": 1}}, "'boxes' is a dict"),
        ({**LINE, "boxes": [{"label": "fox"}]}, "a box without label or xyxy"),
        (offered("left right"), "example '7' has choices 'left right'; give a list of texts"),
        (offered(["left", " "]), "give a list of texts, none of them empty"),
        (offered(["left"]), "example '7' has 1 choices; give 2 or more, or leave 'choices' out"),
        (offered(["left", "top", "left "]), "example '7' has the choice 'left' 2 times; give each once"),
        (offered(["top", "right"]), r"example '7' is answered 'left', and its choices are \['top', 'right'\]; add the"),
        (offered(["left", "top"], messages=LINE["messages"] * 2, images=["a.png"] * 2), "2 assistant messages"),
        (offered(["left", "top"], messages=LINE["messages"][:1]), "0 assistant messages"),
        ({**LINE, "meta": {"size": "20x16"}}, "'size' in 'meta' is '20x16'; give width and height in pixels, or leave"),
        ({**LINE, "meta": {"size": [20]}}, r"'size' in 'meta' is \[20\]; give"),
        ({**LINE, "meta": {"size": [20, 0]}}, "'size' in 'meta' is .*; give"),
        ({**LINE, "meta": {"answers": "red"}}, "example '7' has answers 'red' in its meta; give a list of texts"),
        ({**LINE, "meta": {"answers": [1, 2]}}, r"example '7' has answers \[1, 2\] in its meta; give a list of texts"),
        ({**LINE, "messages": chat("Where?", "x \ud800")}, r"messages\[1\].content\[0\].text holds half a character"),
        (json.dumps({**LINE, "id": "7"}).replace("fox", "\\ud83e fox"), "text holds half a character"),
        (boxed([1, 2, 3]), "give left, top, right, bottom"),
        (boxed([5, 2, 3, 9]), r"box 'fox' is inverted or empty: \[5, 2, 3, 9\]"),
        (boxed([5, 2, 5, 9]), "inverted or empty"),
        (boxed([5, 2, 30, 9]), r"box 'fox' at \[5, 2, 30, 9\] leaves its image of 20 x 16 pixels"),
        (boxed([-3, 2, 3, 9]), "leaves its image"),
        (boxed([1, 2, 3, 9], image=1), "is on image 1 of 1; count from 0"),
        (boxed([1, 2, float("nan"), 9]), "inverted or empty"),
        (boxed([1, 2, 3, float("inf")]), "leaves its image"),
        (boxed([1, 2, 3, 9], segmentation=[1, 2, 3]), "box 'fox' has a segmentation that is no list of polygons"),
        (boxed([1, 2, 3, 9], segmentation=[[1, 2, 3, 4]]), "a polygon of 4 numbers; give x and y of three points"),
        (boxed([1, 2, 3, 9], segmentation=[[1, 2, 3, 9, 1]]), "a polygon of 5 numbers"),
        (boxed([1, 2, 3, 9], segmentation=[[1, 2, 3, 9, 1, float("nan")]]), "a polygon of 6 numbers"),
        (boxed([1, 2, 3, 9], segmentation=[[1, 2, 3, 9, 1, 30]]), "a polygon that leaves its image of 20 x 16"),
        (boxed([1, 2, 3, 9], keypoints=[1, 2]), "keypoints that are no list of x, y, v"),
        (boxed([1, 2, 3, 9], keypoints=[1, 2, 3]), r"a keypoint with v \[3\]; give 0"),
        (boxed([1, 2, 3, 9], keypoints=[0, 0, 0, -5, 2, 2]), "a keypoint that leaves its image"),
    ],
)
def test_each_mistake_has_its_line(folder, row, message):
    put(folder, LINE, row)
    if message is None:
        assert len(read(folder)) == 2
        return
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert f"{folder / 'train.jsonl'}:2: " in str(caught.value) and "\n" not in str(caught.value)


def test_boxes_of_an_image_that_is_none(folder):
    (folder / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"cannot read the image .*b.png"):
        read(put(folder, {**LINE, "images": ["b.png"]}))


@pytest.mark.parametrize("meta", [{"size": [20, 16]}, {"size": None}, {"answers": None}, {"answers": ["left"]}])
def test_what_meta_may_say(folder, meta):
    text = json.dumps({**LINE, "meta": meta}).replace("fox", "\\ud83e\\udd8a")
    (folder / "train.jsonl").write_text(text, encoding="utf-8-sig")
    (example,) = read(folder)
    assert example.boxes[0].label == "\U0001f98a" and example.meta == meta


def turned(place):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 20 x 16, shown 16 x 20
    Image.new("RGB", (20, 16)).save(place, exif=exif)
    return place


@pytest.mark.parametrize("name", ["t.jpg", "t.png", "t.webp"])
def test_boxes_are_those_of_the_upright_picture(folder, name):
    assert image_size(str(turned(folder / name))) == (16, 20)
    boxes = [{"label": "fox", "xyxy": [1, 2, 11, 20]}]
    (example,) = read(put(folder, {**LINE, "images": [name], "boxes": boxes}))
    write_shard(folder / "one.tar", [example])
    assert read(folder / "one.tar")[0].boxes == example.boxes
    row = {**LINE, "images": [name], "boxes": [{"label": "fox", "xyxy": [1, 2, 20, 11]}]}
    with pytest.raises(InputError, match=r"leaves its image of 16 x 20 pixels"):
        read(put(folder, row))


def test_a_file_that_is_not_text(folder):
    (folder / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read(folder)


def test_where_the_data_are(folder):
    with pytest.raises(InputError, match=r"no data at .*nowhere"):
        locate(folder / "nowhere")
    with pytest.raises(InputError, match=r"holds no \.jsonl file"):
        locate(folder)
    put(folder, LINE)
    assert locate(folder) == locate(folder / "train.jsonl") == folder / "train.jsonl"
    assert splits(folder) == ["train"]
    with pytest.raises(InputError, match=r"unknown split in .* 'tain'; did you mean 'train'"):
        locate(folder, "tain")


def test_a_fingerprint_is_of_bytes_in_the_order_of_files(tmp_path):
    one, two, moved = (tmp_path / name for name in ("a", "b", "c"))
    one.write_text("1\n")
    two.write_text("2\n")
    moved.write_text("1\n")
    assert fingerprint([one, two]) == fingerprint([moved, two])
    told = [fingerprint(files) for files in ([one], [two], [one, two], [two, one], [one, one])]
    assert len(set(told)) == 5


def test_what_follows_on_one_image_shares_its_boxes(folder):
    one, two, three = iterate(put(folder, LINE, {**LINE, "id": "8"}, {**LINE, "images": ["b.png"]}))
    assert one.boxes is two.boxes and one.images is two.images
    assert three.boxes == one.boxes and three.images == (folder / "b.png",)
    assert [[e.id for e in group] for group in grouped([one, three, two])] == [["7", "8"], ["7"]]


text = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20)
free = text.filter(lambda name: name not in ("answers", "choices", "size"))  # these have rules of their own
side = st.floats(0, 50).map(lambda x: round(x, 3))


@given(
    images=st.lists(st.sampled_from(["x/a.png", "x/b c.jpg"]), min_size=1, max_size=3),
    corners=st.lists(st.tuples(side, side, st.floats(0.5, 9)), max_size=3),
    texts=st.tuples(text, text, text, text),
    meta=st.dictionaries(free, st.integers() | text, max_size=2),
)
def test_what_is_written_is_read_back(images, corners, texts, meta):
    boxes = tuple(
        Box(
            label=texts[3],
            xyxy=(left, top, left + 1.5, top + high),
            image=number % len(images),
            segmentation=((left, top, left + 1.5, top, left, top + high),) * (number % 2),
            keypoints=((left, top, 2), (0.0, 0.0, 0)) * (number % 2),
        )
        for number, (left, top, high) in enumerate(corners)
    )
    example = Example(
        id=texts[0],
        images=tuple(map(Path, images)),
        messages=tuple(chat(texts[1], texts[2], len(images))),
        boxes=boxes,
        meta=meta,
    )
    check = Checker(root=Path(), exists=lambda name: True)
    assert check(encode(example, Path()), "here") == example


def test_a_file_appears_whole_or_not_at_all(folder):
    (example,) = read(put(folder, LINE))

    def broken():
        yield example
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write(folder / "sub" / "test.jsonl", broken())
    assert list((folder / "sub").iterdir()) == []
    assert write(folder / "sub" / "test.jsonl", [example, example]) == 2
    assert read(folder / "sub", split="test")[1] == Example(
        id=example.id, images=(folder / "sub" / ".." / "a.png",), messages=example.messages, boxes=example.boxes,
        meta=example.meta,
    )  # fmt: skip


def test_features_stand_beside_or_instead_of_images(folder):
    np.savez(folder / "a.npz", features=np.ones((1, 2)), boxes=[[0, 0, 5, 5]], size=[20, 16])
    instead = {**{key: value for key, value in LINE.items() if key != "images"}, "features": ["a.npz"]}
    alone, beside = read(put(folder, instead, {**LINE, "features": ["a.npz"]}))
    assert (alone.images, alone.features, alone.boxes) == ((folder / "a.npz",), (), beside.boxes)
    assert (beside.images, beside.features) == ((folder / "a.png",), (folder / "a.npz",))
    assert write(folder / "again.jsonl", [alone, beside]) == 2
    assert read(folder / "again.jsonl")[1] == beside
    with pytest.raises(InputError, match="a shard holds no files of region features"):
        write_shard(folder / "a.tar", [beside])


@pytest.mark.parametrize(
    ("given", "told"),
    [(["a.png", "b.png"], "2 features but 1 images"), ("a", "'features' is a str"), (["c.npz"], "the feature 'c.npz'")],
)
def test_features_that_do_not_fit_are_told(folder, given, told):
    with pytest.raises(InputError, match=told):
        read(put(folder, {**LINE, "features": given}))
