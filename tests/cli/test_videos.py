"""Videos on the command line: made, inspected, learned from, scored and asked about."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from foveal.cli.main import run
from foveal.data.format import read

MOTION = {"size": 64, "drawings": 12, "things": [2, 3], "frames": 3}
TINY = {
    "system": "llava",
    "model": {
        "vision": {
            **{"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16},
            "layers": [-1],
        },
        "connector": "linear",
        "language": {"name": "decoder", "width": 16, "depth": 1, "heads": 2, "inner": 32},
        "head": {"name": "language_model", "tied": True},
    },
    "processor": {"image": {"size": 16, "mode": "square"}, "video": {"count": 2}},
    "data": {"motion": MOTION, "count": 20},
    "training": {
        "device": "cpu",
        "features": {"dtype": "fp32"},
        "stages": [{"name": "tune", "steps": 4, "train": ["connector", "language"], "batch_size": 4, "group": True}],
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data set, and a run that was trained on the like."""
    place = tmp_path_factory.mktemp("videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        small = ["--size", "64", "--drawings", "12", "--workers", "1"]
        assert run(["data", "motion", "data", "--count", "20", "--seed", "1", *small]) == 0
        Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
        assert run(["train", "tiny.yaml", "--out", "run"]) == 0
    return place


def told(capsys, *arguments):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_videos_are_made_and_inspected(tmp_path, capsys):
    small = ["--size", "64", "--frames", "3", "--workers", "1"]
    row = told(capsys, "data", "motion", tmp_path / "a", "--count", "10", *small)
    assert row["videos"] == {"train": 8, "val": 1, "test": 1} and row["videos_per_second"] > 0
    split = told(capsys, "data", "inspect", tmp_path / "a")["splits"]["train"]
    assert (split["videos"], split["sizes"]["width"]) == (8, [64, 64, 64])
    assert {kind: entry["count"] for kind, entry in split["kinds"].items()} == {
        "caption": 8,
        "mover": 8,
        "way": 8,
        "moved": 16,
    }
    assert split["kinds"]["moved"]["majority"] == 0.5
    assert run(["data", "inspect", str(tmp_path / "a")]) == 0
    assert "8 images (8 of them videos) width 64-64 px" in " ".join(capsys.readouterr().out.split())
    assert run(["data", "motion", str(tmp_path / "a"), "--count", "2"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["data", "preview", str(tmp_path / "a"), str(tmp_path / "p.png"), "--count", "2"]) == 0
    assert run(["data", "motion", str(tmp_path / "b"), "--count", "2", *small]) == 0
    assert "videos" in capsys.readouterr().out


def test_a_recipe_learns_from_videos_of_its_own(home):
    (folder,) = (home / "cache" / "foveal" / "motion").iterdir()
    assert len(read(folder)) == 16 * 5 and len(list((folder / "videos" / "m0-000000").iterdir())) == 3
    config = yaml.safe_load((home / "run" / "config.yaml").read_text())
    assert config["processor"]["video"]["count"] == 2
    (store,) = (home / "cache" / "foveal" / "features").iterdir()
    index = [entry for path in store.glob("*.json") for entry in json.loads(path.read_text())["images"]]
    assert len(index) == 16 and all(entry[1:] == [8, [2, 2], 2] for entry in index)


def test_a_run_is_scored_on_videos(home, capsys):
    row = told(capsys, "eval", "--run", home / "run", "--data", home / "data", "--batch", "8")
    assert row["questions"] == 8 and set(row["kinds"]) == {"mover", "way", "moved"}
    few = told(capsys, "eval", "--run", home / "run", "--data", home / "data", "--batch", "8", "--shots", "2")
    assert (few["questions"], few["shots"]) == (8, 2) and "shots" not in row
    report = home / "report.html"
    assert run(["eval", "--run", str(home / "run"), "--data", str(home / "data"), "--report", str(report)]) == 0
    assert "data:image/jpeg" in report.read_text()


def test_a_video_is_asked_about_as_directory_and_as_file(home, capsys, tmp_path):
    folder = home / "data" / "videos" / "m1-000000"
    row = told(capsys, "ask", folder, "What moved?", "--run", home / "run")
    assert (row["visual_tokens"], row["images"]) == (2 * 4, [str(folder)])
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for name in sorted(folder.iterdir()):
            with Image.open(name) as opened:
                frame = av.VideoFrame.from_ndarray(np.asarray(opened.convert("RGB")), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert told(capsys, "ask", path, folder, "What moved?", "--run", home / "run")["visual_tokens"] == 2 * 8


def test_a_video_is_asked_about_under_a_budget(home, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    queries = "model.connector={name: perceiver, latents: 4, depth: 1, heads: 2, head_width: 8, frames: 2}"
    assert run(["train", "tiny.yaml", queries, "training.stages.0.steps=1", "--out", str(tmp_path / "run")]) == 0
    folder, where = home / "data" / "videos" / "m1-000000", ["--run", tmp_path / "run", "--budget", "3"]
    assert told(capsys, "ask", folder, "What moved?", *where)["visual_tokens"] == 3
    picture = next(folder.iterdir())
    assert told(capsys, "ask", picture, folder, "What moved?", *where)["visual_tokens"] == 2 * 3
    assert run(["ask", str(folder), "x", *map(str, where), "--map", str(tmp_path / "map.png")]) == 2
    assert f"maps of videos are not made here, and {folder} is one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}", "What moved?"], "0 files and 0 pictures"),
        (["{words}", "What moved?"], "is no video that PyAV reads"),
        (["nowhere.mp4", "What moved?"], "nowhere.mp4 cannot be read"),
        (["{folder}"], "is an image or a video; add a question after it"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(home, capsys, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.mp4").write_text("only words")
    shutil.copytree(home / "data" / "videos" / "m1-000000", tmp_path / "folder")
    places = {"empty": tmp_path / "empty", "words": tmp_path / "words.mp4", "folder": tmp_path / "folder"}
    assert run(["ask", *(one.format(**places) for one in arguments), "--run", str(home / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
