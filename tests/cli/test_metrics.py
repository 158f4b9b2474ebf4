import json
import shutil

import pytest

from foveal.cli.main import run

LONGEST = ["--max-new-tokens", "5"]


@pytest.fixture
def scored(tiny, capsys):
    """Run `foveal eval` on the tiny world, or on other data, with more options: its code, and what it prints."""

    def score(*options, data=None):
        code = run(["eval", "--run", str(tiny.run), "--data", str(data or tiny.data), *LONGEST, *options])
        return code, capsys.readouterr()

    return score


@pytest.fixture
def asking(tiny, tmp_path):
    """The data with more in each example's `meta`."""

    def change(**meta):
        folder = tmp_path / "data"
        shutil.copytree(tiny.data, folder, dirs_exist_ok=True)
        rows = [json.loads(line) for line in (tiny.data / "test.jsonl").read_text().splitlines()]
        lines = [json.dumps({**row, "meta": {**row["meta"], **meta}}) + "\n" for row in rows]
        (folder / "test.jsonl").write_text("".join(lines))
        return folder

    return change


def test_a_named_metric_gives_its_figures_with_intervals(scored):
    code, told = scored("--metric", "anls", "--json")
    row = json.loads(told.out)
    assert code == 0 and row["metric"] == "anls" and row["questions"] == 12
    assert row["figures"] == {"anls": {"value": 1.0, "interval": [1.0, 1.0], "count": 12}}
    assert set(row["kinds"]) == {"where", "count", "present"}
    assert set(row["baselines"]) == set(row["leads"]) == {"text_only", "majority"}
    assert 0 < row["leads"]["majority"]["value"] <= 1


def test_the_data_name_their_metric_and_their_answers(scored, asking):
    """All ten people gave one wrong answer: exact match would take the true one."""
    data = asking(metric="vqa", answers=["giraffe"] * 10)
    row = json.loads(scored("--json", data=data)[1].out)
    assert row["metric"] == "vqa" and row["figures"]["vqa_accuracy"]["value"] == 0
    assert (
        json.loads(scored("--json", "--metric", "exact_match", data=data)[1].out)["figures"]["exact_match"]["value"]
        == 0
    )
    code, told = scored(data=data)
    assert code == 0 and "vqa accuracy" in told.out and "points to majority" in told.out


def test_captions_are_asked_for_once_a_picture(scored, asking):
    row = json.loads(scored("--json", "--metric", "cider", data=asking(kind="caption"))[1].out)
    assert row["questions"] == 4 and row["baselines"].keys() == {"text_only"} and row["figures"]["cider"]["value"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "anlz"], "unknown metric 'anlz'; did you mean 'anls'?"),
        (["--metric", "vqa"], "question s0-where has 1 answers, and VQA accuracy counts how many people agree"),
        (["--metric", "bleu"], "the data hold no captions to score against"),
        (["--metric", "anls", "--report", "page.html"], "a report shows exact match; leave one of them out"),
        (["--metric", "anls", "--shots", "1"], "a metric is of single questions"),
        (["--metric", "anls", "--drawings", "1"], "metrics are of questions, and none are asked here"),
    ],
)
def test_mistakes_are_one_line(scored, options, said):
    code, told = scored(*options)
    assert code == 2 and said in told.err.replace("\n", " ")


def test_budgets_are_measured_by_it_too(scored, asking):
    given = ["--budget", "16,1", "--strategy", "foveal,random", "--draws", "2"]
    code, told = scored(*given, "--metric", "anls", "--json")
    found = json.loads(told.out)
    assert code == 0 and found["metric"] == found["figure"] == "anls"
    whole, same, *_ = rows = found["budgets"]
    assert whole["figure"]["value"] == same["figure"]["value"] == 1.0 and whole["figure"]["count"] == 12
    assert all(row["figure"]["value"] >= row["exact_match"] for row in rows)
    data = asking(metric="vqa", answers=["giraffe"] * 10)
    code, told = scored(*given, data=data)
    assert code == 0 and "vqa accuracy" in told.out
    assert "figure" not in json.loads(scored(*given, "--json")[1].out)
    code, told = scored(*given, "--metric", "cider")
    assert code == 2 and "--metric cider scores captions" in told.err
