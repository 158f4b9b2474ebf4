"""What stages want hidden, and a run that is pretrained before it answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import foveal
from foveal.cli import _objectives
from foveal.cli.main import run
from foveal.data.format import read
from foveal.training.config import Stage

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16, "layers": [-1]}
HEADS = {
    "answer": "classification", "words": "masked_language", "regions": "region_prediction", "matching": "classification"
}  # fmt: skip
PARTS = ["connector", "fusion", "language", "heads"]
TINY = {
    "system": "visualbert",
    "model": {
        "assembly": "masked",
        "vision": VIT,
        "connector": "linear",
        "fusion": "single_stream",
        "language": {"name": "encoder", "width": 16, "depth": 1, "heads": 2, "inner": 32},
        "heads": HEADS,
    },
    "processor": {"image": {"size": 16, "mode": "square"}, "answers": 5},
    "data": {"path": "data"},
    "training": {
        "device": "cpu",
        "log_every": 1,
        "features": {"dtype": "fp32"},
        "stages": [
            {"name": "pretrain", "steps": 3, "train": PARTS, "batch_size": 4, "objective": "pretrain", "group": True},
            {"name": "answer", "steps": 2, "train": PARTS, "batch_size": 4, "objective": "choose", "group": True},
        ],
    },
}

LOOK = {"name": "look", "steps": 1, "train": ["language", "heads"], "objective": "contrastive"}
QFORMER = {"name": "qformer", "queries": 2, "width": 16, "depth": 1, "heads": 2, "inner": 32, "places": 2}
TOWERS = {
    "system": "blip2",
    "model": {
        "assembly": "two_tower",
        "vision": VIT,
        "connector": None,
        "language": QFORMER,
        "heads": {"write": "masked_language", "pair": {"name": "contrastive", "size": 8}},
    },
    "processor": {"image": {"size": 16, "mode": "square"}, "order": "prefix"},
    "data": {"path": "data"},
    "training": {"device": "cpu", "stages": [{**LOOK, "objective": "next_token"}]},
}


def stage(objective):
    return Stage(steps=1, objective=objective)


@pytest.mark.parametrize(
    ("objective", "hidden", "blind"),
    [
        ("choose", None, "choose"),
        ("cells", None, None),
        ("masked_words", {"regions": 0.0, "foreign": 0.0}, "masked_words"),
        ("masked_regions", {"words": 0.0, "foreign": 0.0}, None),
        ({"name": "matching", "head": "pair"}, {"words": 0.0, "regions": 0.0}, None),
        ("pretrain", {}, {"name": "pretrain", "regions": 0.0, "matching": 0.0}),
        ({"name": "pretrain", "words": 0.0, "matching": 0.0}, {"words": 0.0, "foreign": 0.0}, None),
        ("contrastive", {"words": 0.0, "regions": 0.0, "foreign": 0.0}, None),
        ({"name": "budgets", "of": "choose"}, None, {"name": "budgets", "of": "choose"}),
        ("match", None, None),
        ("reconstruct", None, None),
    ],
)
def test_what_an_objective_wants_hidden_and_what_is_left_without_images(objective, hidden, blind):
    assert _objectives.masking(stage(objective)) == hidden
    assert _objectives.blind(stage(objective)) == blind


def test_words_are_matched_with_cells_alone(painted):
    lines = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    for line in lines:
        line["messages"][0]["content"][1]["text"] = f"where is {line['boxes'][0]['label']}"
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    language = {"name": "decoder", "width": 16, "depth": 2, "heads": 2, "inner": 32}
    model = {"vision": VIT, "connector": "linear", "language": language, "head": "language_model"}
    stages = [{"steps": 2, "batch_size": 4, "objective": "match"}]
    processor = {"image": {"size": 16, "mode": "square"}}
    training = {"device": "cpu", "log_every": 1, "stages": stages}
    recipe = {"system": "llava", "model": model, "processor": processor, "data": {"path": "data"}, "training": training}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml"]) == 0
    first = json.loads(Path("runs/tiny/log.jsonl").read_text().splitlines()[0])
    assert first["loss"] > 0


@pytest.mark.parametrize("options", [[], ["text_only=true"]])
def test_a_run_is_pretrained_and_then_answers(painted, options):
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml", *options]) == 0
    rows = [json.loads(line) for line in Path("runs/tiny/log.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["pretrain"] * 3 + ["answer"] * 2
    parts = {"loss_words"} if options else {"loss_words", "loss_regions", "prior_regions", "loss_matching"}
    assert parts <= rows[0].keys()
    asked = None if options else "data/0.png"
    assert foveal.load("runs/tiny").answer(asked, "what colour is it").text in ("red", "green", "blue", "very large")


def test_the_same_is_hidden_each_time(painted):
    from safetensors.torch import load_file

    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml", "--out", "whole"]) == 0
    assert run(["train", "tiny.yaml", "--out", "again"]) == 0
    whole, again = (load_file(f"{name}/model.safetensors") for name in ("whole", "again"))
    assert all((whole[name] == again[name]).all() for name in whole)


def test_pretraining_is_scored_on_its_own_tasks(painted, capsys):
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml"]) == 0
    Path("data/train.jsonl").rename("data/test.jsonl")
    capsys.readouterr()
    command = ["eval", "--run", "runs/tiny", "--data", "data", "--pretraining", "--batch", "12"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {task: set(told[task]) for task in ("words", "regions", "matching")} == {
        "words": {"loss", "prior", "accuracy", "majority", "count"},
        "regions": {"loss", "prior", "count"},
        "matching": {"loss", "prior", "accuracy", "majority", "count"},
    }
    assert told["matching"]["count"] == 12 and 0 < told["regions"]["prior"] <= 1
    assert run(command) == 0
    assert "matching" in capsys.readouterr().out


@pytest.fixture
def detected(painted):
    """The data again, with a file of two regions beside each picture."""
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    for number in range(6):
        features = np.random.default_rng(number).normal(size=(2, 12)).astype(np.float32)
        np.savez(f"data/{number}.npz", features=features, boxes=[[0, 0, 8, 16], [8, 0, 16, 16]], size=[16, 16])
    rows = [{**row, "features": [row["images"][0].replace("png", "npz")]} for row in rows]
    for split in ("train", "test"):
        Path(f"data/{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return painted


def test_a_run_reads_features_made_elsewhere(detected, capsys):
    model = {key: part for key, part in TINY["model"].items() if key != "vision"}
    recipe = {**TINY, "model": {**model, "features": 12}}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml", "--text-only"]) == 0
    assert foveal.load("runs/tiny/text_only").model.connector is None
    trained = foveal.load("runs/tiny")
    assert trained.processor.config.region_files.width == 12
    assert trained.answer("data/0.npz", "what colour is it").visual_tokens == 2
    capsys.readouterr()
    assert run(["ask", "data/0.npz", "what colour is it", "--run", "runs/tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["visual_tokens"] == 2
    assert run(["eval", "--run", "runs/tiny", "--data", "data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 12
    assert run(["ask", "data/0.png", "what colour is it", "--run", "runs/tiny"]) == 2
    assert "an opened picture is no file of regions" in capsys.readouterr().err
    np.savez("data/0.npz", features=np.ones((2, 9)), boxes=[[0, 0, 8, 16]] * 2, size=[16, 16])
    assert run(["ask", "data/0.npz", "what colour is it", "--run", "runs/tiny"]) == 2
    assert "9 numbers to a region, but the model reads 12" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(("source", "count"), [("oracle", 2), ("windows", 30)])
def test_regions_are_pooled_from_the_encoders_map(painted, capsys, source, count):
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml", f"processor.regions={source}"]) == 0
    trained = foveal.load("runs/tiny")
    example = read("data")[0]
    batch = trained.processor.prompt([example], plan=trained.model.plan)
    assert (batch.image_slot >= 0).sum() == count == trained.model.see(batch).features.shape[0]
    Path("data/train.jsonl").rename("data/test.jsonl")
    scored = ["eval", "--run", "runs/tiny", "--data", "data"]
    capsys.readouterr()
    assert run([*scored, "--json", "--report", "report.html"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["questions"] == 12 and told["regions"] == source
    assert run(scored) == run([*scored, "--pretraining"]) == 0
    bound = "true boxes, which tell how many things there are"
    assert (capsys.readouterr().out.count(f"oracle: it read the data's {bound}") == 2) == (source == "oracle")
    page = Path("report.html").read_text()
    assert (bound in page) == ('<th scope="col">oracle</th>' in page) == (source == "oracle")
    assert run(["ask", "data/0.png", "what colour is it", "--run", "runs/tiny"]) == 0
    said = "foveal: runs/tiny learned from true boxes and a picture brings none: it sees the whole image alone\n"
    assert capsys.readouterr().err == (said if source == "oracle" else "")


@pytest.mark.parametrize(
    ("answers", "kind", "said"),
    [("0", "colour", "processor.answers is 0"), ("5", "caption", "the data hold no answers"), ("[]", "size", "empty")],
)
def test_an_empty_answer_vocabulary_is_told(painted, capsys, answers, kind, said):
    rows = [{**json.loads(line), "meta": {"kind": kind}} for line in Path("data/train.jsonl").read_text().splitlines()]
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml", f"processor.answers={answers}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (TOWERS, "a two_tower model learns nothing without images; leave --text-only"),
        ({**TOWERS, "training": {**TOWERS["training"], "stages": [LOOK]}}, "without images nothing is left to train"),
    ],
)
def test_a_twin_without_images_that_cannot_be_is_told_before_the_first_step(painted, capsys, recipe, told):
    Path("towers.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "towers.yaml", "--text-only"]) == 2
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


PRETRAINED = {**TINY["model"], "heads": {name: head for name, head in HEADS.items() if name != "answer"}}
PAIRED = {**TOWERS["model"], "heads": {**TOWERS["model"]["heads"], "matching": "averaged"}}


@pytest.mark.parametrize(
    ("model", "objective", "scored"),
    [
        (PAIRED, "matching", True),
        (PAIRED, "contrastive", True),
        (PRETRAINED, "masked_words", True),
        ({**PRETRAINED, "heads": {"other": "classification"}}, {"name": "matching", "head": "other"}, False),
    ],
)
def test_what_is_told_next_runs(painted, capsys, model, objective, scored):
    lines = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    captions = [json.dumps({**line, "meta": {"kind": "caption"}}) for line in lines]
    for split in ("train", "test"):
        Path(f"data/{split}.jsonl").write_text("\n".join(captions))
    parts = LOOK["train"] if model is PAIRED else PARTS
    stages = [{**LOOK, "train": parts, "objective": objective}]
    order = "prefix" if model is PAIRED else "suffix"
    processor = {"image": {"size": 16, "mode": "square"}, "order": order}
    recipe = {**TINY, "model": model, "processor": processor, "training": {"device": "cpu", "stages": stages}}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "tiny.yaml"]) == 0
    told = capsys.readouterr().err
    assert "ask it:" not in told and ("score it:" in told) == scored
    if scored:
        command = told.replace("\n", " ").split("score it: foveal ")[1].split()
        assert run(command) == 0
