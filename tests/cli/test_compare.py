import json
from pathlib import Path

import pytest
import torch

from foveal.cli import _cells, _comparison, _cost
from foveal.cli.main import run
from foveal.evaluation.cells import Record

RECIPE = """
system: llava
family: {family}
model:
  vision: {{name: vit, width: 16, depth: 1, heads: 2, inner: 16, patch: 4, image_size: 16, layers: [-1]}}
  connector: {connector}
  language: {{name: decoder, width: 16, depth: 1, context: 64}}
processor: {{tokenizer: words, image: {{size: 16}}, context: 64}}
data: {{path: elsewhere}}
training:
  stages:
    - {{name: align, train: [connector], epochs: 1, batch_size: 4}}
    - {{name: learn, epochs: 3, rate: 3.0e-3}}
"""
COMPARISON = """
about: two connectors
data: {path: data}
systems:
  late: {recipe: late.yaml, ablate: {model.language.depth: [2]}}
  mid: {recipe: mid.yaml}
answer: {batch_size: 2, group: true}
lengths: [{samples: 16}]
tokens: [0.25, 3]
strategies: [foveal, {name: random, seed: 1}]
evaluation: {split: train, limit: 8}
"""


WHOLE = "answer={batch_size: 2, group: true, objective: {name: budgets, whole: 1.0}}"


@pytest.fixture
def compared(painted, capsys):
    """The working directory with a comparison of two tiny systems; runs `foveal compare` and reads its results."""
    queries = "{name: qformer, queries: 5, width: 16, depth: 1, heads: 2, inner: 16}"
    Path("late.yaml").write_text(RECIPE.format(family="late", connector="linear"))
    Path("mid.yaml").write_text(RECIPE.format(family="mid", connector=queries))
    Path("tiny.yaml").write_text(COMPARISON)

    def compare(*options, code=0):
        assert run(["compare", "tiny.yaml", "--out", "out", *options]) == code, capsys.readouterr().err
        told = capsys.readouterr()
        return (json.loads(Path("out/results.json").read_text()) if Path("out/results.json").is_file() else {}), told

    return compare


def test_a_comparison_from_nothing_to_its_report_and_nothing_twice(compared):
    found, told = compared()
    rows = {(row["system"], row["strategy"], row["wanted"]): row for row in found["rows"]}
    assert rows["late", "all", None]["tokens"] == 16 and rows["mid", "all", None]["tokens"] == 5
    assert rows["late", "foveal", 0.25]["tokens"] == 4 and rows["late", "random (seed 1)", 3]["tokens"] == 3
    assert rows["late", "foveal", 0.25]["flops"] != rows["late", "all", None]["flops"] > 0
    assert {("late", "text_only", None), ("mid", "text_only", None)} <= rows.keys()
    refused = [one for one in found["failures"] if one["state"] == "refused"]
    assert len(refused) == len(found["failures"]) == 2 and all(
        "mid-0: random" in one["what"] for one in refused
    )  # queries are no grid to cut by lots
    late, mid = found["trainings"]
    assert late["training"]["order"] == mid["training"]["order"]
    for one in (late, mid):
        assert sum(stage["samples"] for stage in one["training"]["stages"]) == 16
        assert one["training"]["flops"]["backward"] > 0 and one["training"]["flops"]["vision"] > 0
        assert one["made"]["hardware"] and one["made"]["versions"]["torch"] and one["config"]["seed"] == 0
        steps = [stage["steps"] for stage in one["config"]["training"]["stages"]]
        assert steps == [stage["steps"] for stage in one["training"]["stages"]]
        assert all("answers" not in cell for cell in one["cells"])
    assert {"majority", "same words"} == found["baselines"].keys()
    assert any(gap["theirs"] == "late, no images" for gap in found["significance"])
    page = Path("out/report.html").read_text()
    for words in ("Trained for 16 samples each", "By kind of question", "What is sure", "What did not run", "foveal"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "report: out/report.html" in told.out.replace("\n", "")

    looks = [look for cell in json.loads(Path("out/cells/late-0.json").read_text())["cells"]
             if cell["strategy"] == "foveal" for look in cell["looks"].values()]  # fmt: skip
    assert looks and all(len(look["shares"]) == len(look["shares"][0]) == 16 and look["boxes"] for look in looks)

    before = {file: file.stat().st_mtime_ns for file in Path("out/runs").rglob("*.safetensors")}
    again, _ = compared()
    assert again["rows"] == found["rows"] and before
    assert before == {file: file.stat().st_mtime_ns for file in Path("out/runs").rglob("*.safetensors")}


def test_equal_flops_are_counted_and_other_processes_do_the_same(compared):
    settings = ["text_only=false", "tokens=[]", "lengths=[{flops: 4.0e+7}]"]
    apart, _ = compared(*settings, "--jobs", "2")
    assert not apart["failures"] and Path("out/logs/late-0.txt").is_file()
    for one in apart["trainings"]:
        spent, last = sum(one["training"]["flops"].values()), one["training"]["stages"][-1]
        assert abs(spent - 4e7) <= 2 * spent / last["steps"]


def test_a_failed_training_is_told_and_ends_nothing(compared):
    Path("mid.yaml").write_text(Path("mid.yaml").read_text().replace("heads: 2, inner: 16}", "heads: 3, inner: 16}", 2))
    found, told = compared("text_only=false", "tokens=[]")
    (failure,) = found["failures"]
    assert failure["what"] == "mid-0: training" and failure["error"]
    assert [row["system"] for row in found["rows"]] == ["late"]
    assert "mid-0: training" in told.out.replace("\n", " ")
    assert "mid-0 has failed (" in told.err or "mid-0 was refused (" in told.err
    assert "late-0 is done; 1 of 2" in told.err and "mid-0 is done" not in told.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["lengths=[{}]"], "give one of samples, steps and flops"),
        (["tokens=[1.5]"], "neither a share below 1"),
        (["strategies=[fovaal]"], "did you mean 'foveal'"),
        (["seeds=[]"], "a comparison without seeds"),
        (["--only", "nobody"], "--only nobody names no training"),
        (["--jobs", "0"], "--jobs 0 trains nothing"),
    ],
)
def test_bad_input_is_one_line(compared, capsys, settings, words):
    assert run(["compare", "tiny.yaml", "--out", "out", *settings]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and "\n" not in told.splitlines()[-1]


def test_a_launcher_is_refused(compared, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["compare", "tiny.yaml"]) == 2
    said = capsys.readouterr().err
    assert "2 processes were launched" in said and "--jobs" in said and said.count("\n") == 1


def test_data_that_are_not_there_are_told_before_anything_is_begun(compared, capsys):
    lacks = ["evaluation={split: test}", "data={path: [data, nope]}"]
    for options, words in (
        (["--data", "nope"], "no data at nope"),
        (["--data", "nope", "--only", "late-0"], "no data at nope"),
        (["--data", "nope", "--jobs", "2"], "no data at nope"),
        (lacks[:1], "unknown split in data 'test'; known: train"),
        (lacks[1:], "no data at nope"),
    ):
        assert run(["compare", "tiny.yaml", "--out", "out", *options]) == 2
        told = capsys.readouterr().err
        assert words in told and "is done" not in told
    assert not Path("out").exists()


def test_what_came_of_a_training_is_told_as_it_was(tmp_path):
    done, bad = {"state": "done"}, {"state": "refused", "error": "too long"}
    for told, words in (
        ({"training": done, "cells": [done]}, "is done"),
        ({"training": done, "cells": [done, bad]}, "is done, without 1 of its 2 cells"),
        ({"training": bad}, "was refused (too long)"),
        ({"training": {"state": "failed", "error": "odd"}}, "has failed (odd)"),
        ({}, "has failed (it was not begun)"),
    ):
        assert _cells.outcome(Record(tmp_path / "one.json", told)) == words


def test_ablated_systems_differ_in_one_setting(compared):
    jobs = _comparison.jobs(_comparison.read("tiny.yaml"), ablate=True)
    assert [job.system for job in jobs] == ["late", "late language.depth=2"]
    one, two = (job.recipe.model["language"]["depth"] for job in jobs)
    assert (one, two) == (1, 2)
    assert len({job.key for job in jobs}) == 2


@pytest.mark.parametrize("name", _comparison.names())
def test_what_ships_can_be_read(name):
    wanted = _comparison.read(name)
    jobs = _comparison.jobs(wanted)
    assert len(jobs) == len(wanted.systems) * len(wanted.seeds) * len(wanted.lengths)
    assert len({job.name for job in jobs}) == len(jobs)
    assert not any(system.ablate for system in wanted.systems.values()) or _comparison.jobs(wanted, ablate=True)
    families = {job.recipe.family for job in jobs}
    assert name in ("ablations", "hybrid", "spending") or families == {"early", "mid", "late", "hybrid"}


def test_what_is_done_so_far_is_reported_and_nothing_more_is_done(compared, capsys):
    assert run(["compare", "tiny.yaml", "--out", "out", "--report"]) == 2
    assert "out holds nothing that is done" in capsys.readouterr().err
    compared("--only", "mid-0")
    found, _ = compared("--report")
    assert {row["system"] for row in found["rows"]} == {"mid"} and len(found["trainings"]) == 1
    assert not Path("out/runs/late-0").exists()
    assert run(["compare", "tiny.yaml", "--out", "out", "--report", "--only", "late-0"]) == 2
    assert not Path("out/runs/late-0").exists()


def test_a_metric_stands_beside_exact_match_and_nothing_is_asked_again(compared):
    bare, _ = compared("text_only=false", "tokens=[]")
    before = {file: file.stat().st_mtime_ns for file in Path("out/cells").iterdir()}
    found, told = compared("text_only=false", "tokens=[]", "evaluation.metric=anls")
    assert before == {file: file.stat().st_mtime_ns for file in Path("out/cells").iterdir()}
    assert "figure" not in bare["rows"][0]
    assert all(row["figure"]["value"] >= row["exact_match"]["value"] for row in found["rows"])
    assert ">anls<" in Path("out/report.html").read_text() and "anls" in told.out


def test_a_metric_of_captions_is_refused(compared, capsys):
    assert run(["compare", "tiny.yaml", "--out", "out", "evaluation.metric=cider"]) == 2
    assert "metric cider scores captions" in capsys.readouterr().err


def test_what_a_budget_costs_is_counted_over_the_same_draws_for_all(compared):
    """A batch that sees few tokens costs less than one that sees all: one alone would tell of its draw."""
    Path("late.yaml").write_text(
        Path("late.yaml")
        .read_text()
        .replace("connector: linear", "connector: linear\n  allocator: {name: foveal, budget: 16}")
        .replace("epochs: 3,", "epochs: 3, objective: {name: budgets, least: 1, most: 4, whole: 0.5},")
    )
    job, _ = _comparison.jobs(_comparison.read("tiny.yaml"))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        samples = _cost.stages(job.recipe, say=print, bar=None).samples
        found.append({name: sum(parts.values()) for name, parts in samples.items()})
    assert found[0] == found[1]
    whole = _comparison.jobs(_comparison.read("tiny.yaml", [WHOLE]))[0]
    assert found[0]["compared"] < sum(_cost.stages(whole.recipe, say=print, bar=None).samples["compared"].values())
