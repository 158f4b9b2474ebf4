import json
from dataclasses import replace

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.data.format import grouped, read, said
from foveal.data.generate import MARK, tasks, write_scenes
from foveal.data.layout import held_out
from foveal.data.scenes import SPLITS, SceneConfig, Scenes

CONFIG = SceneConfig(seed=6, size=96, drawings=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "scenes"
    finished = []
    summary = write_scenes(out, CONFIG, count=40, workers=1, progress=finished.append)
    assert sum(finished) == 44
    return out, summary


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_splits_counts_and_credit(made):
    out, summary = made
    assert summary.scenes == {"train": 32, "val": 4, "test": 4, "pairs": 4}
    assert sorted(p.name for p in out.iterdir()) == [
        "ATTRIBUTION.txt", MARK, "images", "pairs.jsonl", "test.jsonl", "train.jsonl", "val.jsonl",
    ]  # fmt: skip
    assert "CC BY-SA 4.0" in (out / "ATTRIBUTION.txt").read_text()
    assert json.loads((out / MARK).read_text())["config"]["seed"] == 6
    assert summary.rate > 0 and summary.cpu_seconds > 0


def test_the_reader_agrees_with_the_scenes(made):
    out, summary = made
    scenes = Scenes(CONFIG)
    for split in SPLITS:
        examples = read(out, split=split)
        assert len(examples) == summary.examples[split]
        assert {e.meta["split"] for e in examples} == {split}
    for group in grouped(read(out, split="test")):
        scene = scenes[int(group[0].meta["scene"].split("-")[1])]
        caption, *questions = group
        assert said(caption, "assistant") == [scene.caption] and caption.meta["kind"] == "caption"
        assert [(e.meta["kind"], *said(e, "user"), *said(e, "assistant")) for e in questions] == [
            (q.kind, q.text, q.answer) for q in scene.questions
        ]
        assert [(b.label, b.xyxy, i in caption.meta["words"]) for i, b in enumerate(caption.boxes)] == [
            (b.label, b.xyxy, b.word) for b in scene.boxes
        ]
        with Image.open(group[0].images[0]) as picture:
            assert (picture.format, picture.mode, list(picture.size)) == ("JPEG", "RGB", caption.meta["size"])


def test_splits_share_no_scene_and_held_out_pairs_stay_out(made):
    out, _ = made
    known = {name: number for number, name in enumerate(Scenes(CONFIG).drawings)}
    seen = [{e.meta["scene"] for e in read(out, split=split)} for split in SPLITS]
    assert sum(map(len, seen)) == len(set().union(*seen))
    for split in SPLITS:
        for first, *_ in grouped(read(out, split=split)):
            ids = {known[b.label] for i, b in enumerate(first.boxes) if i not in first.meta["words"]}
            assert any(held_out(i, j) for i in ids for j in ids) == (split == "pairs")


def test_the_same_bytes_for_any_number_of_workers(made, tmp_path):
    out, _ = made
    write_scenes(tmp_path / "two", CONFIG, count=40, workers=2)
    assert contents(tmp_path / "two") == contents(out)
    assert [p.name for p in tmp_path.iterdir()] == ["two"]


def test_choices_stand_beside_questions_and_change_nothing_else(made, tmp_path):
    out, _ = made
    write_scenes(tmp_path / "four", replace(CONFIG, choices=4), count=40)
    there, bare = contents(tmp_path / "four"), contents(out)
    assert b"choices" not in b"".join(bare.values())
    assert json.loads(there.pop(MARK))["config"] == {**json.loads(bare.pop(MARK))["config"], "choices": 4}
    examples = read(tmp_path / "four", split="test")
    assert {len(e.choices) for e in examples} == {0, 4}
    assert {e.meta["kind"] for e in examples if not e.choices} == {"caption", "present"}
    assert {e.answer in e.choices for e in examples if e.choices} == {True}
    without = [{key: value for key, value in e.meta.items() if key != "choices"} for e in examples]
    assert without == [e.meta for e in read(out, split="test")]
    assert all(there[name] == bare[name] for name in bare if not name.endswith(".jsonl"))


def test_png_is_without_loss(tmp_path):
    write_scenes(tmp_path / "png", CONFIG, count=1, codec="png")
    with Image.open(tmp_path / "png" / "images" / "s6-000000.png") as picture:
        assert picture.tobytes() == Scenes(CONFIG)[0].image.tobytes()


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(InputError, match="exists and is not empty; choose another place"):
        write_scenes(tmp_path / "mine", CONFIG, count=1)
    with pytest.raises(InputError, match="is not a data set of ours"):
        write_scenes(tmp_path / "mine", CONFIG, count=1, force=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"


def test_force_replaces_a_data_set(tmp_path):
    write_scenes(tmp_path / "set", CONFIG, count=3)
    write_scenes(tmp_path / "set", CONFIG, count=1, force=True)
    assert json.loads((tmp_path / "set" / MARK).read_text())["count"] == 1
    assert len(list((tmp_path / "set" / "images").iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_set_that_another_process_has_made_meanwhile_is_kept(tmp_path, empty):
    if empty:
        (tmp_path / "set").mkdir()

    def another(number):
        if not (tmp_path / "set" / MARK).exists():
            write_scenes(tmp_path / "other", CONFIG, count=1)
            (tmp_path / "other").replace(tmp_path / "set")

    with pytest.raises(InputError, match="was made by another process meanwhile, and is kept"):
        write_scenes(tmp_path / "set", CONFIG, count=2, progress=another)
    assert json.loads((tmp_path / "set" / MARK).read_text())["count"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "set", CONFIG, count=20, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*; make room, or choose another place"):
        write_scenes(tmp_path / "file" / "set", CONFIG, count=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "0 scenes asked for; give --count 1 or more"),
        ({"count": 1, "workers": 0}, "0 workers asked for"),
        ({"count": 1, "codec": "jpg"}, "unknown image format 'jpg'; did you mean 'jpeg'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        write_scenes(tmp_path / "set", CONFIG, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_one_drawing_a_scene_makes_no_pairs():
    assert all(not pairs for pairs, _, _ in tasks(100, SceneConfig(max_drawings=1)))
    assert sum(last - first for pairs, first, last in tasks(100, CONFIG) if pairs) == 10
