"""Hugging Face data sets on disk give the examples of JSON lines."""

import json
import logging

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, load_from_disk
from PIL import Image as Pictures

from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.data.format import chat, grouped, located, read
from foveal.data.places import files, fingerprint, locate, splits
from foveal.data.statistics import summary
from foveal.data.thorough import thorough
from foveal.preprocess.image import open_image

RED, BLUE = (Pictures.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
ROWS = {
    "id": ["a", "b"],
    "images": [[RED], [BLUE, RED]],
    "messages": [chat("What?", "a fox"), chat("Which?", "an owl", 2)],
    "boxes": [[{"image": 0, "label": "fox", "xyxy": [1.0, 1.0, 5.0, 5.0]}], []],
    "meta": [{"kind": "name"}, {"kind": "count"}],
}


def saved(folder, rows=ROWS):
    Dataset.from_dict(rows).save_to_disk(folder)
    return folder


def with_splits(folder):
    one = Dataset.from_dict(ROWS)
    DatasetDict({"train": one, "val": one.select([1])}).save_to_disk(folder)
    return folder


def parquet(folder):
    folder.mkdir()
    one = Dataset.from_dict(ROWS)
    for place in range(2):
        one.select([place]).to_parquet(folder / f"train-0000{place}-of-00002.parquet")
    one.select([1]).to_parquet(folder / "val.parquet")
    return folder


def hub(folder):
    folder.mkdir()
    parquet(folder / "data")
    return folder


@pytest.mark.parametrize(
    ("make", "names"), [(saved, ["train"]), *((make, ["train", "val"]) for make in (with_splits, parquet, hub))]
)
def test_every_layout_is_read(tmp_path, make, names):
    place = make(tmp_path / "set")
    assert splits(place) == names
    (_, first), (where, second) = located(place)
    assert (first.id, second.id) == ("a", "b") and where.endswith(("row 1", "train-00001-of-00002.parquet: row 0"))
    assert [open_image(image).getpixel((0, 0)) for image in second.images] == [(0, 0, 255), (255, 0, 0)]
    assert first.messages == tuple(ROWS["messages"][0]) and second.messages == tuple(ROWS["messages"][1])
    assert first.boxes[0].label == "fox" and first.meta == {"kind": "name"} and not second.boxes
    assert len(files(place)) == (2 if make in (parquet, hub) else 1) and fingerprint(files(place))
    if "val" in names:
        assert [one.id for _, one in located(place, split="val")] == ["b"]
    with pytest.raises(InputError, match=r"unknown split in .* 'trian'; did you mean 'train'"):
        list(located(place, split="trian"))


def test_a_single_file_of_parquet(tmp_path):
    Dataset.from_dict(ROWS).to_parquet(tmp_path / "some.parquet")
    assert [one.id for one in read(tmp_path / "some.parquet")] == ["a", "b"]


@pytest.mark.parametrize("make", [saved, with_splits])
def test_what_was_made_of_a_saved_set_is_no_data(tmp_path, make):
    place = make(tmp_path / "set")
    once, told = list(files(place)), fingerprint(files(place))
    back = load_from_disk(place)
    back = back["train"] if make is with_splits else back
    back.filter(lambda row: row["id"] == "b").map(lambda row: {**row, "id": "c"})
    assert len(list(place.rglob("cache-*.arrow"))) == 2
    assert files(place) == once and fingerprint(files(place)) == told
    assert [one.id for one in read(place)] == ["a", "b"]


def test_files_are_read_in_their_order(tmp_path):
    Dataset.from_dict(ROWS).select([1, 0]).save_to_disk(tmp_path / "set", num_shards=2)
    assert [one.id for one in read(tmp_path / "set")] == ["b", "a"]
    state = tmp_path / "set/state.json"
    told = json.loads(state.read_text())
    state.write_text(json.dumps({**told, "_data_files": told["_data_files"][::-1]}))
    assert [one.id for one in read(tmp_path / "set")] == ["a", "b"]
    for broken in ("{}", "[" * 100_000):
        state.write_text(broken)
        with pytest.raises(InputError, match=r"state.json names no files of data .*save the data set again"):
            read(tmp_path / "set")


def test_paths_are_those_of_the_folder(tmp_path, monkeypatch):
    row = {"images": [["a.png"]], "messages": [chat("What?", "a fox")]}
    place = saved(tmp_path / "set", row)
    BLUE.save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    (one,) = read(place)
    assert open_image(one.images[0]).getpixel((0, 0)) == (0, 0, 255)
    RED.save(place / "a.png")
    (one,) = read(place)
    assert open_image(one.images[0]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("conversations", [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a fox"}]),
        ("texts", [{"user": "What?", "assistant": "a fox"}]),
        ("messages", [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a fox"}]),
    ],
)
def test_other_columns(tmp_path, column, said):
    place = saved(tmp_path / "set", {"image": [RED], column: [said]})
    ((_, one),) = located(place)
    assert one.answer == "a fox" and len(one.images) == 1 and one.id.endswith(":0")
    words = "".join(part.get("text", "<image>") for part in one.messages[0]["content"])
    assert words == "<image>What?"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"image": [RED], "question": ["What?"]}, "row 0: has the columns image, question; what is said"),
        ({"images": [["a.png"]], "messages": [chat("What?", "a fox")]}, "'a.png' is no picture; cast that column"),
        ({"images": [[RED]], "messages": [chat("What?", "a fox", 2)]}, "2 image markers but 1"),
        ({"images": [[RED]], "messages": [[{"role": "friend", "content": "x"}]]}, "unknown role 'friend'"),
        ({"image": [RED], "messages": [5]}, "row 0: 'messages' is a int; it must be a list"),
        ({"image": [RED], "conversations": [3]}, "row 0: 'conversations' is a int; it must be a list"),
        ({"image": [RED], "texts": [["a", "b"]]}, "row 0: 'texts' holds a str; give pairs of user and assistant"),
        (
            {"images": [5], "messages": [chat("What?", "a fox")]},
            "'images' is a int; .* single picture stands in 'image'",
        ),
        ({"id": ["a"], "messages": [None]}, "row 0: has the columns id; what is said is read .* leave out the row"),
        ({"messages": [None]}, "row 0: has no column that is not null; what is said"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, rows, told):
    with pytest.raises(InputError, match=told):
        read(saved(tmp_path / "set", rows))


def test_tables_without_rows_hold_none(tmp_path):
    Dataset.from_dict(ROWS).select([]).to_parquet(tmp_path / "none.parquet")
    Dataset.from_dict(ROWS).filter(lambda row: False).save_to_disk(tmp_path / "set")
    assert read(tmp_path / "none.parquet") == read(tmp_path / "set") == []


def test_the_name_of_a_table_is_no_pattern(tmp_path):
    for place, name in enumerate(("a1.parquet", "a[1].parquet")):
        Dataset.from_dict(ROWS).select([place]).to_parquet(tmp_path / name)
    assert [one.id for one in read(tmp_path / "a[1].parquet")] == ["b"]


def test_a_split_without_rows_is_where_its_set_is(tmp_path, capsys):
    Dataset.from_dict(ROWS).select([]).save_to_disk(tmp_path / "set")
    assert not files(tmp_path / "set") and locate(tmp_path / "set") == tmp_path / "set"
    assert run(["data", "inspect", str(tmp_path / "set")]) == 2
    assert "set holds no examples; write one a line" in capsys.readouterr().err


def test_half_a_table_is_told_once(tmp_path, caplog, monkeypatch):
    Dataset.from_dict(ROWS).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-200])
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [caplog.handler])
    with pytest.raises(InputError, match=r"cannot read .*a.parquet of a Hugging Face data set .*save it again"):
        read(tmp_path / "a.parquet")
    assert not caplog.records


def test_broken_files_and_pictures(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"cannot read .*a.parquet of a Hugging Face data set .*save it again"):
        read(tmp_path / "a.parquet")
    rows = {"images": [[{"bytes": b"no picture", "path": None}]], "messages": [chat("What?", "a fox")]}
    told = Features(
        {
            "images": List(Image()),
            "messages": List(
                {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
            ),
        }
    )
    Dataset.from_dict(rows, features=told).save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match="row 0: cannot read an image"):
        read(tmp_path / "set")


def test_rows_that_follow_each_other_on_a_picture_share_it(tmp_path):
    rows = {
        "image": [RED, RED, BLUE],
        "messages": [chat("What?", "a fox"), chat("Where?", "left"), chat("What?", "sky")],
    }
    examples = read(saved(tmp_path / "set", rows))
    assert [len(group) for group in grouped(examples)] == [2, 1]
    told = summary(thorough(tmp_path / "set", repeated={}))
    assert (told["examples"], told["images"], told["scenes"]) == (3, 2, 2)
    assert told["sizes"] == {"width": [8, 8, 8], "height": [6, 6, 6]}


def test_rows_on_a_picture_that_others_part_share_it_too(tmp_path):
    said = [chat("What?", "a fox"), chat("What?", "sky"), chat("Where?", "left")]
    examples = read(saved(tmp_path / "set", {"image": [RED, BLUE, RED], "messages": said}))
    assert [[one.answer for one in group] for group in grouped(examples)] == [["a fox", "left"], ["sky"]]
    told = summary(thorough(tmp_path / "set", repeated={}))
    assert (told["images"], told["scenes"]) == (2, 2) and told == summary(examples)
