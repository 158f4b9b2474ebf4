"""A run of many tasks in one vocabulary: trained, and each task scored."""

import json
from pathlib import Path

import pytest
import yaml

from foveal.cli._detection import pictures_of
from foveal.cli._tasks import questions
from foveal.cli.ask import _length
from foveal.cli.main import run
from foveal.data.format import read
from foveal.data.shards import write_shard
from tests.cli.test_detection import TINY


@pytest.fixture
def marked(painted):
    """The painted pictures, with an outline and two keypoints of each box, and a caption of each picture."""
    lines = []
    for line in map(json.loads, Path("data/train.jsonl").read_text().splitlines()):
        colour = line["boxes"][0]["label"]
        line["boxes"][0] |= {
            "segmentation": [[0, 0, 16, 0, 16, 16, 0, 16]], "keypoints": [4, 4, 2, 12, 12, 2]
        }  # fmt: skip
        if line["meta"]["kind"] == "size":
            line["meta"]["kind"] = "caption"
            line["messages"][1]["content"][0]["text"] = f"all {colour}"
        lines.append(json.dumps(line))
    Path("data/train.jsonl").write_text("\n".join(lines))
    return painted


def recipe(weights):
    tasks = {"weights": weights, "max_points": 8, "max_words": 8, "text_shift": 1017}
    detection = {**TINY["processor"]["detection"], "tasks": tasks}
    model = {**TINY["model"], "language": {**TINY["model"]["language"], "context": 26}}
    stage = {**TINY["training"]["stages"][0], "group": False, "group_limit": None, "batch_size": 12, "steps": 120}
    training = {**TINY["training"], "stages": [stage]}
    return {**TINY, "model": model, "processor": {**TINY["processor"], "detection": detection}, "training": training}


def test_every_task_is_trained_and_scored(marked, capsys):
    weights = {"detect": 1.0, "mask": 1.0, "keypoints": 1.0, "caption": 1.0, "find": 1.0}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe(weights)))
    assert run(["train", "tiny.yaml"]) == 0
    capsys.readouterr()
    where = ["eval", "--run", "runs/tiny", "--data", "data", "--split", "train"]
    assert run([*where, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["tasks"]
    assert {task: row["count"] for task, row in told.items()} == {"mask": 6, "keypoints": 6, "find": 6, "caption": 6}
    assert all(0 <= row["score"] <= 1 for row in told.values())
    assert told["caption"]["score"] > 0.5 and told["find"]["score"] > 0.5
    assert run([*where, "--limit", "2"]) == 0
    table = capsys.readouterr().out
    assert "asked boxes" in table and "outlines: AP50" in table and "2 pictures" in table
    picture = str(read("data")[0].images[0])
    said = [_asked(capsys, picture, *length) for length in ((), ("--max-new-tokens", "1"), ("--max-new-tokens", "40"))]
    assert said == [said[0], said[0][:1], said[0]] and len(said[0]) > 1
    assert (_length(Path("runs/tiny"), None), _length(None, None)) == ({}, {"max_new_tokens": 32})


def _asked(capsys, picture, *settings):
    assert run(["ask", picture, "describe", "--run", "runs/tiny", *settings]) == 0
    return capsys.readouterr().out.split()


def test_what_is_asked_about_pictures_of_a_shard_is_found_when_it_is_read_again(marked):
    Path("packed").mkdir()
    write_shard("packed/train.tar", read("data")[:4])
    shown = [(number, one.images[0]) for number, one in enumerate(pictures_of(Path("packed"), "train"), 1)]
    asked = [one.id for one in questions(Path("packed"), "train", shown[:1])]
    assert asked == [one.id for one in read("data")[:2]]


def test_tasks_that_were_not_learned_are_not_scored(marked, capsys):
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe({"detect": 1.0, "caption": 1.0})))
    assert run(["train", "tiny.yaml", "training.stages.0.steps=2"]) == 0
    capsys.readouterr()
    assert run(["eval", "--run", "runs/tiny", "--data", "data", "--split", "train", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["tasks"]) == {"caption"}
