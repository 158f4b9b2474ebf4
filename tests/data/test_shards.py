import gzip
import io
import json
import lzma
import pickle
import tarfile

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.data.format import chat, grouped, read
from foveal.data.media import strip
from foveal.data.places import splits
from foveal.data.shards import read_shard, write_shard
from foveal.data.statistics import summary
from foveal.evaluation.questions import questions
from foveal.preprocess.image import image_size, open_image
from foveal.training.order import groups

ROW = {"id": "7", "images": ["7.png"], "messages": chat("What?", "a fox")}


def png(side=8, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, kind)
    return stream.getvalue()


def pack(path, **members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_shard_is_read(tmp_path):
    other = {"messages": chat("Which?", "an owl", 2)}
    path = pack(
        tmp_path / "a.tar", **{"7__png": png(), "7__json": json.dumps(ROW).encode()},
        **{"8__json": json.dumps(other).encode(), "8__0__png": png(), "8__1__png": png(9)},
    )  # fmt: skip
    first, second = read(path)
    assert (first.id, second.id) == ("7", "8")
    assert [open_image(image).size for image in second.images] == [(8, 8), (9, 9)]
    assert open_image(first.images[0]).getpixel((0, 0)) == (255, 0, 0)


def test_what_is_looked_at_stays_the_bytes_of_its_file(tmp_path):
    pack(tmp_path / "a.tar", **{"7__png": png(512), "7__json": json.dumps(ROW).encode()})
    (example,) = read(tmp_path / "a.tar")
    (image,) = example.images
    strip(image).thumbnail((4, 4))
    assert open_image(image).size == (512, 512) and image_size(image) == (512, 512)
    assert image.data == png(512) and len(pickle.dumps(example)) < len(png(512)) + 1000
    assert len({image, *read(tmp_path / "a.tar")[0].images}) == 1, "the same bytes are the same picture"


def test_written_shards_are_read_back(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "train.jsonl").write_text(json.dumps({**ROW, "images": ["a.png"]}) + "\n")
    examples = read(tmp_path)
    assert write_shard(tmp_path / "s.tar", examples) == 1
    (back,) = read_shard(tmp_path / "s.tar")
    assert (back.id, back.messages) == (examples[0].id, examples[0].messages)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "s.tar", "train.jsonl"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"7__png": png()}, "a.tar:7: 0 .json members; a key has one"),
        ({"7__json": b"{"}, "a.tar:7: 7.json is not JSON"),
        ({"7__json": b'{"id": "x\\ud800"}'}, "a.tar:7: id holds half a character"),
        ({"7__json": json.dumps(ROW).encode()}, "names the image '7.png', which is not in"),
        ({"7__json": json.dumps(ROW).encode(), "7__png": b"no"}, "a.tar:7: cannot read an image"),
        ({"7__json": json.dumps(ROW).encode(), "7__png": b"no"}, r"image, 7.png \(it is no picture that Pillow reads"),
        (
            {"7__json": json.dumps(ROW).encode(), "7__png": png(kind="JPEG")[:30]},
            "a.tar:7: cannot read an image, 7.png",
        ),
        ({"7__json": b"[" * 100_000}, "a.tar:7: 7.json is not JSON"),
    ],
)
def test_mistakes_in_a_shard(tmp_path, members, message):
    with pytest.raises(InputError, match=message):
        list(read_shard(pack(tmp_path / "a.tar", **members)))


HARMS = {  # of a shard of two samples, of which the second begins there
    "a bit of a head": lambda whole, begin: whole[:begin] + bytes([whole[begin] ^ 1]) + whole[begin + 1 :],
    "cut in a head": lambda whole, begin: whole[: begin + 200],
    "cut between members": lambda whole, begin: whole[:begin],
    "zeros": lambda whole, begin: whole[:begin] + bytes(1024) + whole[begin + 1024 :],
    "two in one": lambda whole, begin: whole + whole,
    "no sum of what is packed": lambda whole, begin: lzma.compress(whole + bytes(1 << 20))[:-40] + bytes(40),
    "half unpacked": lambda whole, begin: gzip.compress(whole)[:-20],
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_shard_that_ends_before_its_end_is_no_shorter_one(tmp_path, harm):
    row, path = json.dumps(ROW).encode(), tmp_path / "a.tar"
    pack(path, **{"7__json": row, "7__png": png(), "8__json": row.replace(b"7.png", b"8.png"), "8__png": png(9)})
    assert len(list(read_shard(path))) == 2
    with tarfile.open(path) as tar:
        begin = tar.getmembers()[2].offset
    path.write_bytes(HARMS[harm](path.read_bytes(), begin))
    with pytest.raises(InputError, match=r"cannot read the shard .*a\.tar .*; it must be a whole tar file"):
        list(read_shard(path))


def test_a_picture_of_many_samples_is_one(tmp_path):
    for name, side in (("a", 4), ("b", 6)):
        (tmp_path / f"{name}.png").write_bytes(png(side))
    rows = [{"id": str(i), "images": [f"{name}.png"], "messages": chat("What?", "a fox")} for i, name in
            enumerate("abab")]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filed = read(tmp_path / "train.jsonl")
    write_shard(tmp_path / "s.tar", filed)
    held = read(tmp_path / "s.tar")
    assert [len(group) for group in grouped(held)] == [2, 2] and groups(held, shared=True) == [(0, 2), (1, 3)]
    assert [one.scene for one in questions(held)] == [one.scene for one in questions(filed)] == ["0", "1", "0", "1"]
    assert summary(held) == summary(filed)


def test_a_file_that_is_no_shard(tmp_path):
    (tmp_path / "a.tar").write_text("hello")
    with pytest.raises(InputError, match="cannot read the shard"):
        list(read_shard(tmp_path / "a.tar"))


def test_a_folder_of_shards_is_a_data_set(tmp_path):
    for name in ("train-000001", "train-000000", "val"):
        row = json.dumps({**ROW, "id": name, "images": ["7.png"]}).encode()
        pack(tmp_path / f"{name}.tar", **{"7__png": png(), "7__json": row})
    assert splits(tmp_path) == ["train", "val"]
    assert [example.id for example in read(tmp_path)] == ["train-000000", "train-000001"]
    assert [example.id for example in read(tmp_path, split="val")] == ["val"]
    with pytest.raises(InputError, match=r"unknown split in .* 'trian'; did you mean 'train'"):
        read(tmp_path, split="trian")


def test_what_else_a_sample_holds_is_no_image(tmp_path):
    row = json.dumps({"messages": chat("What?", "a fox")}).encode()
    members = {"7__png": png(), "7__json": row, "7__txt": b"a fox", "7__cls": b"3"}
    (example,) = read(pack(tmp_path / "a.tar", **{"__" + "_7__png": b"mac", **members}))
    assert example.id == "7" and len(example.images) == 1


def test_a_key_that_comes_again_is_another_sample(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in 2 * [("7.png", png()), ("7.json", json.dumps({"messages": ROW["messages"]}).encode())]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [example.id for example in read(tmp_path / "a.tar")] == ["7", "7"]
