"""The demo is a comparison: one system is trained here, what was trained before is asked anew."""

import json
import shutil
from pathlib import Path

import pytest

from foveal.cli import _cells, _comparison, demo
from foveal.cli.main import run
from tests.cli.test_compare import COMPARISON, RECIPE


@pytest.fixture
def shown(painted, monkeypatch, capsys):
    """Runs `foveal demo` on a comparison of two tiny systems, the second of which was trained before."""
    queries = "{name: qformer, queries: 5, width: 16, depth: 1, heads: 2, inner: 16}"
    Path("late.yaml").write_text(RECIPE.format(family="late", connector="linear"))
    Path("mid.yaml").write_text(RECIPE.format(family="mid", connector=queries))
    Path("quick.yaml").write_text(COMPARISON.replace("recipe: mid.yaml", "recipe: mid.yaml, strategies: [foveal]"))
    monkeypatch.setattr(_comparison, "_shipped", Path)
    monkeypatch.setattr(demo, "shipped", lambda: Path("before"))
    assert run(["compare", "quick", "--out", "before", "--only", "mid-0"]) == 0
    capsys.readouterr()

    def show(*options):
        assert run(["demo", "out", *options]) == 0
        return capsys.readouterr()

    return show


def test_one_is_trained_the_other_taken_over_and_nothing_is_done_twice(shown):
    told = shown("--json")
    found = json.loads(told.out)
    assert "mid-0: trained already, taken from before" in told.err and "late-0: training for" in told.err
    assert "mid-0: training for" not in told.err and "mid-0: training without" not in told.err
    rows = {(row["system"], row["strategy"], row["wanted"]) for row in found["rows"]}
    assert {("late", "all", None), ("mid", "all", None), ("mid", "foveal", 3), ("mid", "text_only", None)} <= rows
    before = json.loads(Path("before/cells/mid-0.json").read_text())
    (mid,) = [one for one in found["trainings"] if one["system"] == "mid"]
    assert mid["training"]["seconds"] == before["training"]["seconds"]
    assert "By kind of question" in Path(found["report"]).read_text()
    assert json.loads(Path(found["results"]).read_text())["rows"] == found["rows"]

    again = shown()
    assert "2 of 2 trainings are done" in again.out and "training for" not in again.out
    command = next(line for line in again.out.splitlines() if line.startswith("Ask it yourself: "))
    assert f"--run {Path('out/runs/late-0')}" in command
    other = Path("out/runs/mine/model.safetensors")
    other.parent.mkdir()
    other.write_text("weights of somebody else")
    assert "late-0: training for" in shown("--fresh").out and other.exists()


def test_another_training_than_is_wanted_is_not_taken_over(shown):
    record = Path("before/cells/mid-0.json")
    record.write_text(record.read_text().replace('"key": "', '"key": "0', 1))
    assert "mid-0: training for" in shown().out


def test_a_record_without_its_run_is_not_taken_over(shown):
    shutil.rmtree("before/runs")
    assert "mid-0: training for" in shown().out


def test_compare_takes_over_too(shown, capsys):
    assert run(["compare", "quick", "--out", "third", "--known", "before"]) == 0
    assert "mid-0: trained already, taken from before" in capsys.readouterr().err


def test_all_but_the_first_system_of_the_demo_is_shipped_and_small():
    first, *others = _comparison.jobs(_comparison.read(demo.COMPARISON))
    place = _cells.Place(out=Path("nowhere"), say=print, bar=None, known=demo.shipped())
    assert place.elsewhere(first) is None and len(others) == 3
    for job in others:
        record = place.elsewhere(job)
        assert record is not None and record.cell(**_cells.text_only(job)) is not None, job.name
    assert sum(file.stat().st_size for file in demo.shipped().rglob("*") if file.is_file()) < 18_000_000
