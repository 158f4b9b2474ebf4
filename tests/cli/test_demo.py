import json

import pytest

from foveal.cli import _recipe
from foveal.cli.main import run

TINY = """
system: llava
family: late
paper: "2304.08485"
model:
  vision: {name: vit, width: 16, depth: 1, heads: 2, inner: 32, patch: 16, image_size: 64, layers: [-1]}
  connector: linear
  language: {name: decoder, width: 32, depth: 1, context: 160}
processor: {tokenizer: words, image: {size: 64}, context: 160, background: nothing}
data: {scenes: {size: 64, drawings: 20, words: 5, max_drawings: 3}, count: 20}
training:
  features: {}
  stages:
    - {name: see, train: [connector, language.embedding], objective: cells, minutes: 0.002, group: true}
    - {name: answer, objective: joint, minutes: 0.01, group: true, batch_size: 4}
evaluation: {split: test, limit: 12}
"""


@pytest.fixture
def tiny_demo(tmp_path, monkeypatch, capsys):
    """Run `foveal demo` on a recipe of seconds."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text(TINY)
    monkeypatch.setattr(_recipe, "_shipped", lambda: tmp_path / "recipes")

    def demo(*options):
        assert run(["demo", str(tmp_path / "out"), *options]) == 0
        return capsys.readouterr()

    return demo


def test_data_training_scores_and_report_and_no_second_training(tiny_demo, tmp_path):
    first = json.loads(tiny_demo("--json").out)
    out = tmp_path / "out"
    assert first["questions"] == 12
    assert 0 <= first["exact_match"] <= 1 and 0 <= first["text_only"] <= 1 and 0 <= first["majority"] <= 1
    page = (out / "report.html").read_text()
    assert "CC BY-SA 4.0" in page and "How it learned" in page and "data:image/jpeg" in page
    log = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    twin = [json.loads(line) for line in (out / "run" / "text_only" / "log.jsonl").read_text().splitlines()]
    answered = log[-1]["step"] - max(entry["step"] for entry in log if entry["stage"] == "see")
    assert twin[-1]["step"] == answered  # the baseline had as many steps
    assert not (out / "features").exists()

    again = tiny_demo()
    assert (out / "run" / "log.jsonl").read_text().count("\n") == len(log)
    assert f"{100 * first['exact_match']:.1f}%" in again.out
    for words in ("1/4 making 20 pictures", "4/4 asking", "all questions", "truth", "Ask it yourself: foveal ask"):
        assert words in again.out
