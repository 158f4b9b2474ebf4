"""Questions with choices (VCR): trained, scored and asked through the command line."""

import json
from itertools import permutations
from pathlib import Path

import pytest
import yaml

import foveal
from foveal.cli.main import run
from tests.cli import test_objectives
from tests.cli.conftest import COLOURS

STAGE = {"name": "answer", "steps": 80, "train": test_objectives.PARTS, "batch_size": 6, "objective": "pick",
         "group": True, "rate": 4e-3, "kinds": {"size": 0}}  # fmt: skip
ASK = ["ask", "data/1.png", "--run", "runs/tiny"]


@pytest.fixture
def offered(painted):
    """Each picture's colour among three in every order, and a question without choices; a recipe for them."""
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    made = []
    for row in rows:
        orders = permutations(COLOURS) if row["meta"]["kind"] == "colour" else [()]
        for number, order in enumerate(orders):
            meta = {**row["meta"], **({"choices": list(order)} if order else {})}
            made.append({**row, "id": f"{row['id']}-{number}", "meta": meta})
    for split in ("train", "test"):
        Path(f"data/{split}.jsonl").write_text("\n".join(map(json.dumps, made)))
    write(choices=3)
    return painted


def write(stage=STAGE, **processor):
    model = {**test_objectives.TINY["model"], "heads": {"choice": {"name": "classification", "labels": 1}}}
    training = {**test_objectives.TINY["training"], "stages": [stage]}
    recipe = {**test_objectives.TINY, "model": model, "training": training}
    recipe["processor"] = {"image": recipe["processor"]["image"], **processor}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run([*arguments]) == 2
    return capsys.readouterr().err


def test_a_stage_leaves_out_what_it_cannot_pick_from_wherever_that_stands(offered, capsys):
    rows = sorted(
        map(json.loads, Path("data/train.jsonl").read_text().splitlines()), key=lambda row: row["meta"]["kind"]
    )
    assert rows[-1]["meta"]["kind"] == "size"
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    write({**STAGE, "steps": 2}, choices=3)
    assert run(["train", "tiny.yaml"]) == 0, capsys.readouterr().err


def test_the_shipped_recipe_of_choices_trains(painted, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(painted))
    small = ["model.language.depth=1", "data.scenes.size=64", "processor.image.size=64", "init={}"]
    small += ["model.vision={name: patches, image_size: 64, patch: 32, width: 8}", "training.features=null"]
    assert run(["train", "visualbert_vcr", "data.count=4", *small, "training.stages.0.steps=2"]) == 0, (
        capsys.readouterr().err
    )


def test_a_run_learns_to_pick_is_scored_and_asked(offered, capsys):
    assert run(["train", "tiny.yaml", "--text-only"]) == 0
    log = [json.loads(line) for line in Path("runs/tiny/log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(1.0986, abs=0.1) and log[-1]["accuracy_choice"] == 1
    capsys.readouterr()
    assert run(["eval", "--run", "runs/tiny", "--data", "data", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["questions"] == 36 and list(told["kinds"]) == ["colour"]
    assert told["exact_match"] == 1 and told["text_only"] < 0.7
    assert run([*ASK[:2], "What colour is it? | red | green | blue", *ASK[2:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "green"
    assert run([*ASK[:2], "what colour is it? | blue | green", *ASK[2:]]) == 0
    assert capsys.readouterr().out == "green\n"
    assert foveal.load("runs/tiny/text_only").answer(None, "what colour is it? | blue | red").text in COLOURS
    assert "names 0 choices and this model picks among 2 or more" in refused(
        capsys, *ASK[:2], "what colour is it?", *ASK[2:]
    )


def test_words_that_are_only_choices_are_known(offered):
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    for row in rows:
        row["meta"]["choices"] = [row["messages"][-1]["content"][0]["text"], "violet", "nothing at all"]
    Path("data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write({**STAGE, "steps": 1, "kinds": {}}, choices=3)
    assert run(["train", "tiny.yaml"]) == 0
    processor = foveal.load("runs/tiny").processor
    assert processor.text(processor.tokenizer("violet nothing at all").input_ids) == "violet nothing at all"


def test_choices_of_unknown_words_are_printed_and_scored(offered, capsys):
    write({**STAGE, "steps": 1}, choices=3)
    assert run(["train", "tiny.yaml"]) == 0
    capsys.readouterr()
    assert run([*ASK[:2], "Which? | Xylophone | qwerty", *ASK[2:]]) == 0
    assert capsys.readouterr().out in ("Xylophone\n", "qwerty\n")
    assert "chooses the best of whole answers" in refused(capsys, *ASK[:2], "Which? | a | b", *ASK[2:], "--top-k", "2")
    rows = [json.loads(line) for line in Path("data/test.jsonl").read_text().splitlines()]
    strange = ["quux", "xylophone", "qwerty"]
    for place, row in enumerate(rows):
        row["meta"]["choices"], row["messages"][-1]["content"] = strange, strange[place % 3]
    Path("data/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(["eval", "--run", "runs/tiny", "--data", "data", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exact_match"] == pytest.approx(1 / 3, abs=0.03)


def test_what_does_not_fit_is_told(offered, capsys):
    write({**STAGE, "kinds": {}}, choices=3)
    assert "has 0 choices and this model picks among 3" in refused(capsys, "train", "tiny.yaml")
    write(choices=4)
    assert "has 3 choices and this model picks among 4" in refused(capsys, "train", "tiny.yaml")
    write({**STAGE, "kinds": {}})
    assert "names no right choice; give the processor a number" in refused(capsys, "train", "tiny.yaml")
    write({**STAGE, "steps": 1}, choices=3)
    assert run(["train", "tiny.yaml"]) == 0
    rows = [json.loads(line) for line in Path("data/test.jsonl").read_text().splitlines()]
    bare = [{**row, "meta": {"kind": row["meta"]["kind"]}} for row in rows]
    Path("data/test.jsonl").write_text("\n".join(map(json.dumps, bare)))
    told = refused(capsys, "eval", "--run", "runs/tiny", "--data", "data")
    assert "this run picks among 3 choices and the data hold no question with some" in told
    assert told.count("\n") == 1
