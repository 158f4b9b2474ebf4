import json

import pytest
from PIL import Image

from foveal.cli.main import run
from foveal.data.format import chat, read
from foveal.data.shards import write_shard

SMALL = ("--size", "96", "--drawings", "40", "--workers", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "scenes"
    assert run(["data", "scenes", str(out), "--count", "20", "--seed", "3", *SMALL]) == 0
    return out


def test_scenes_tells_what_it_made(tmp_path, capsys):
    assert run(["data", "scenes", str(tmp_path / "a"), "--count", "10", *SMALL]) == 0
    told = capsys.readouterr().out
    assert "scenes/s" in told and "OpenMoji" in told and "CC BY-SA 4.0" in told


def test_scenes_as_json(tmp_path, capsys):
    assert run(["data", "scenes", str(tmp_path / "a"), "--count", "10", "--json", *SMALL]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["scenes"] == {"train": 8, "val": 1, "test": 1, "pairs": 1}
    assert row["scenes_per_second"] > 0 and "CC BY-SA 4.0" in row["attribution"]


def test_scenes_with_choices(tmp_path, capsys):
    out = tmp_path / "a"
    assert run(["data", "scenes", str(out), "--count", "10", "--choices", "4", *SMALL]) == 0
    assert {len(example.choices) for example in read(out)} == {0, 4}
    lines = (out / "train.jsonl").read_text().splitlines()
    row = next(row for row in map(json.loads, lines) if "choices" in row["meta"])
    row["meta"]["choices"] = ["something else", "nothing"]
    (out / "train.jsonl").write_text("\n".join([*lines[:2], json.dumps(row)]))
    capsys.readouterr()
    assert run(["data", "inspect", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"train.jsonl:3: example '{row['id']}' is answered" in told and told.count("\n") == 1


def test_inspect(made, capsys):
    assert run(["data", "inspect", str(made)]) == 0
    told = capsys.readouterr().out
    assert told.index("train:") < told.index("val:") < told.index("pairs:") and "count_kind" in told
    assert run(["data", "inspect", str(made), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["splits"]["train"]["scenes"] == 16
    assert row["splits"]["train"]["kinds"]["present"]["majority"] == 0.5
    assert run(["data", "inspect", str(made / "val.jsonl"), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["splits"]) == ["val"]


@pytest.mark.parametrize("name", ["p.png", "p.html"])
def test_preview(made, tmp_path, capsys, name):
    assert run(["data", "preview", str(made), str(tmp_path / name), "--count", "2", "--kind", "count"]) == 0
    assert (tmp_path / name).stat().st_size > 1000 and "2 scenes" in capsys.readouterr().out


def test_scenes_as_a_coco_file_and_back(made, tmp_path, capsys):
    out = tmp_path / "instances_test.json"
    assert run(["data", "coco", str(made), str(out), "--split", "test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    there = json.loads(out.read_text())
    assert told["images"] == len(there["images"]) == 2 and told["annotations"] == len(there["annotations"]) > 1
    assert all(row["segmentation"] and row["num_keypoints"] == 5 for row in there["annotations"])
    assert there["categories"][0]["keypoints"] == ["left", "top", "right", "bottom", "middle"]
    assert run(["data", "convert", str(out), str(tmp_path / "back"), "--from", "coco-detection"]) == 0
    boxes = [box for example in read(tmp_path / "back") for box in example.boxes]
    rows = sorted(there["annotations"], key=lambda row: (row["image_id"], -row["bbox"][2] * row["bbox"][3]))
    assert [list(map(list, box.segmentation)) for box in boxes] == [row["segmentation"] for row in rows]
    assert [box.keypoints[0][:2] for box in boxes] == [tuple(row["keypoints"][:2]) for row in rows]
    assert run(["data", "coco", str(made), str(tmp_path / "no" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_pictures_that_are_no_files_are_named_in_no_coco_file(made, tmp_path, capsys):
    write_shard(tmp_path / "train.tar", read(made, split="test"))
    assert run(["data", "coco", str(tmp_path), str(tmp_path / "x.json")]) == 2
    assert "pictures of shards and tables have no files to name; give data in JSON lines" in capsys.readouterr().err


def test_convert(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Black."}]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": talk}]))
    command = ["data", "convert", str(tmp_path / "llava.json"), str(tmp_path / "out"), "--from", "llava", "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 1
    assert (tmp_path / "out" / "train.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes", "MADE", "--count", "3"], "exists and is not empty; choose another place"),
        (["scenes", "OUT", "--count", "0"], "0 scenes asked for; give --count 1 or more"),
        (["scenes", "OUT", "--size", "2x"], "size '2x' is neither a number of pixels such as 256 nor a range"),
        (["scenes", "OUT", "--size", "9-"], "size '9-' is neither"),
        (["scenes", "OUT", "--size", "1024-224"], "size 1024-224 pixels"),
        (["scenes", "OUT", "--drawings", "999"], "999 drawings asked for; choose 1 to 200"),
        (["scenes", "OUT", "--workers", "-2"], "-2 workers asked for"),
        (["scenes", "OUT", "--detail", "0"], "a detail of 0; give 1 for drawings and words as usual, or down to 0.1"),
        (["scenes", "OUT", "--choices", "1"], "1 choices a question asked for; give 0 for none, or 2 to 12"),
        (["inspect", "OUT"], "no data at"),
        (["preview", "MADE", "OUT.png", "--kind", "cuont"], "unknown kind of question 'cuont'; did you mean 'count'"),
        (["preview", "MADE", "OUT.png", "--split", "tst"], "did you mean 'test'"),
        (["preview", "MADE", "OUT.png", "--count", "0"], "give --count 1 or more"),
        (["convert", "MADE", "OUT", "--from", "lava"], "unknown layout 'lava'; did you mean 'llava'"),
    ],
)
def test_bad_input_is_one_line_and_two(made, tmp_path, capsys, arguments, message):
    places = {"MADE": str(made), "OUT": str(tmp_path / "out"), "OUT.png": str(tmp_path / "out.png")}
    capsys.readouterr()
    assert run(["data", *(places.get(a, a) for a in arguments)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_of_no_example_of_repeated_ids_and_of_half_a_picture(tmp_path, capsys):
    file = tmp_path / "train.jsonl"
    file.write_text("\n")
    for path in (tmp_path, file):
        assert run(["data", "inspect", str(path)]) == 2
        assert "train.jsonl holds no examples; write one a line" in capsys.readouterr().err
    Image.effect_noise((64, 64), 99).save(tmp_path / "a.png")
    line = json.dumps({"id": "1", "images": ["a.png"], "messages": chat("what", "this")})
    file.write_text(f"{line}\n{line}\n")
    assert run(["data", "inspect", str(tmp_path)]) == 0
    assert "1 ids stand here again, the first is '1' in" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    assert run(["data", "inspect", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "train.jsonl:1:" in told and "a.png is damaged or truncated" in told


def test_a_broken_line_is_named(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"id": "1"}\n')
    assert run(["data", "inspect", str(tmp_path)]) == 2
    assert "train.jsonl:1: lacks the field 'images'" in capsys.readouterr().err
