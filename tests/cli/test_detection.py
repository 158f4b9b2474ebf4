"""A run that finds boxes: trained, scored by COCO's measure, asked and drawn."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from PIL import Image

import foveal
from foveal.cli.main import run

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16, "layers": [-1]}
TINY = {
    "system": "pix2seq",
    "model": {
        "assembly": "seq2seq",
        "vision": VIT,
        "connector": "linear",
        "fusion": {"name": "memory", "places": 2},
        "language": {"name": "sequence_decoder", "width": 32, "depth": 1, "heads": 2, "inner": 32, "context": 16},
        "head": {"name": "language_model", "tied": True, "bias": True},
    },
    "processor": {"image": {"size": 16, "mode": "square"}, "detection": {"bins": 17, "max_objects": 2}},
    "data": {"path": "data"},
    "training": {
        "device": "cpu",
        "features": {"dtype": "fp32"},
        "stages": [
            {"steps": 50, "train": ["connector", "fusion", "language", "head"], "batch_size": 6, "rate": 2e-2,
             "objective": "sequence", "group": True, "group_limit": 1},
        ],
    },
}  # fmt: skip


@pytest.fixture
def trained(painted, capsys):
    """The recipe carried out on pictures of one colour, each a whole box; and how to call a command."""
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))

    def call(*arguments, expected=0):
        assert run([str(argument) for argument in arguments]) == expected
        told = capsys.readouterr()
        return told.err if expected else told.out

    call("train", "tiny.yaml", "--json")
    return call


def test_trained_scored_asked_and_drawn(trained):
    told = json.loads(
        trained("eval", "--run", "runs/tiny", "--data", "data", "--split", "train", "--json", "--results", "r.json")
    )
    assert (told["pictures"], told["boxes"]) == (6, 6) and told["AP50"] > 0.9 and set(told["classes"]) == {
        "red", "green", "blue"
    }  # fmt: skip
    rows = json.loads(Path("r.json").read_text())
    assert len(rows) >= 6 and set(rows[0]) == {"image_id", "category_id", "bbox", "score"}
    table = trained("eval", "--run", "runs/tiny", "--data", "data", "--split", "train", "--limit", "2")
    assert "AP50" in table and "2 boxes in 2 pictures" in table
    asked = json.loads(trained("ask", "data/0.png", "detect", "--run", "runs/tiny", "--map", "out.png", "--json"))
    best = asked["boxes"][0]
    assert best["label"] == "red" and best["score"] > 0.3 and asked["answer"].startswith("red ")
    with Image.open("out.png") as drawn:
        assert drawn.size == (16, 16)
    assert foveal.load("runs/tiny").detect(["data/0.png"])[0][0].label == "red"
    assert "0 pictures" not in trained("ask", "data/0.png", "detect", "--run", "runs/tiny")
    assert "named twice" not in trained("ask", "data/0.png", "data/1.png", "x", "--run", "runs/tiny", expected=2)


def test_a_budget_is_kept_in_asking_and_scoring(trained):
    """A budget that is given and not kept, or makes no sense, is never passed over in silence."""
    image, where = "data/0.png", ["--run", "runs/tiny"]
    asked = json.loads(trained("ask", image, "detect", *where, "--budget", "3", "--json", "--map", "looked.png"))
    assert asked["visual_tokens"] == 3 and Path("looked.png").stat().st_size > 0
    scored = json.loads(trained("eval", *where, "--data", "data", "--split", "train", "--budget", "5", "--json"))
    assert (scored["strategy"], scored["budget"]) == ("foveal", 5)
    for more, said in {
        ("--budget", "0"): "give 1 or more",
        ("--budget", "4,8"): "one budget at a time",
        ("--price", "0.1"): "one budget at a time",
        ("--budget", "4", "--pretraining"): "a budget is spent on answers and on boxes",
    }.items():
        assert said in trained("eval", *where, "--data", "data", "--split", "train", *more, expected=2)
    assert "did you mean" in trained("ask", image, "detect", *where, "--budget", "5", "--strategy", "scop", expected=2)


def test_a_coco_file_is_scored_by_its_own_ids(trained):
    Path("annotations").mkdir()
    there = {
        "images": [{"id": 7, "file_name": "0.png", "width": 16, "height": 16}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 90, "bbox": [0, 0, 16, 16], "area": 256, "iscrowd": 0}],
        "categories": [{"id": 90, "name": "red"}, {"id": 3, "name": "owl"}],
    }
    Path("annotations/instances_data.json").write_text(json.dumps(there))
    told = json.loads(
        trained("eval", "--run", "runs/tiny", "--data", "annotations/instances_data.json", "--json", "--results", "r")
    )
    assert told["AP50"] > 0.9 and told["classes"] == {"owl": None, "red": told["AP"]}
    assert {(row["image_id"], row["category_id"]) for row in json.loads(Path("r").read_text())} == {(7, 90)}
    said = trained("eval", "--run", "runs/tiny", "--data", "data", "--split", "train", "--results", "no/r", expected=2)
    assert "cannot write no/r" in said


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_coco_file_is_checked_before_it_is_scored(trained, capsys):
    there = {
        "images": [{"id": 7, "file_name": "0.png", "width": 16, "height": 16}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 16, 16]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, -3, 16]},
            {"image_id": 7, "category_id": 1, "bbox": [20, 0, 5, 5]},
            {"image_id": 8, "category_id": 1, "bbox": [0, 0, 5, 5]},
        ],
        "categories": [{"id": 1, "name": "red"}],
    }
    where = ["eval", "--run", "runs/tiny", "--data", "data/here.json", "--json"]
    Path("data/here.json").write_text(json.dumps(there))
    assert run(where) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["boxes"] == 1 and told["AP50"] > 0.9
    counted = "1 inverted boxes, 1 boxes outside their image, 1 boxes of images that are not there"
    assert err == f"foveal: left out of data/here.json: {counted}\n"
    for fault, said in (
        ({"bbox": [0, 0, float("nan"), 1]}, "annotation 0 has bbox [0, 0, nan, 1]; give left, top, width, height"),
        ({"category_id": 5}, "annotation 0 is of category 5, which the file does not name"),
        ({"bbox": "x"}, "annotation 0 has bbox 'x'"),
    ):
        rows = [{**there["annotations"][0], **fault}]
        Path("data/here.json").write_text(json.dumps({**there, "annotations": rows}))
        assert said in trained(*where, expected=2)
    Path("data/here.json").write_text(json.dumps({**there, "annotations": [7]}))
    assert "annotations[0] is a int; it must be an object" in trained(*where, expected=2)
    del there["categories"]
    Path("data/here.json").write_text(json.dumps(there))
    assert "lacks the field 'categories'" in trained(*where, expected=2)


def test_tokens_may_be_drawn(trained):
    where = ["--run", "runs/tiny", "--data", "data", "--split", "train", "--json"]

    def found(*options):
        trained("eval", *where, "--results", "r", *options)
        return Path("r").read_bytes()

    hot = [found("--temperature", 50, "--seed", seed) for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2] and found("--top-p", 0.1) == found() != hot[0]
    asked = [trained("ask", "data/0.png", "detect", "--run", "runs/tiny", "--temperature", "50") for _ in range(2)]
    assert asked[0] == asked[1] != trained("ask", "data/0.png", "detect", "--run", "runs/tiny")
    assert "give 0 < top_p <= 1" in trained("eval", *where, "--top-p", "0", expected=2)


def test_bad_boxes_are_told_and_unknown_classes_refused(painted, capsys):
    lines = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    for line in lines[:2]:  # both are about one picture
        line["boxes"][0]["xyxy"] = [0, 0, 16.5, 16]
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    stage = {**TINY["training"]["stages"][0], "steps": 1}
    recipe = deepcopy({**TINY, "training": {**TINY["training"], "stages": [stage]}})  # TINY is other tests' too
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml"]) == 0
    assert "of 6 boxes: 1 clipped to the image" in capsys.readouterr().err
    recipe["processor"]["detection"]["classes"] = ["red", "green"]
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml", "--fresh"]) == 2
    assert "unknown class in example" in capsys.readouterr().err


def test_a_run_of_boxes_alone_answers_no_question(trained):
    for words in ("What is in the picture?", "describe it"):
        told = trained("ask", "data/0.png", words, "--run", "runs/tiny", expected=2)
        assert "this run learned to find boxes" in told and "foveal ask IMAGE detect" in told and told.count("\n") == 1
    assert "0 pictures" not in trained("ask", "data/0.png", "Detect all.", "--run", "runs/tiny")


def test_a_class_that_the_run_does_not_know_is_told_beside_the_figures(trained):
    lines = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    where = ["eval", "--run", "runs/tiny", "--data", "data", "--split", "train"]
    assert "unknown" not in json.loads(trained(*where, "--json"))
    for line in lines[:2]:  # both are about one picture
        line["boxes"].append({"label": "unicorn", "xyxy": [0, 0, 8, 8]})
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    told = json.loads(trained(*where, "--json"))
    assert told["unknown"] == ["unicorn"] and told["classes"]["unicorn"] == 0
    assert "does not know, and counted as missed: unicorn" in " ".join(trained(*where).split())
