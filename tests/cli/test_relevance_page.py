"""bench/relevance.py on the tiny world: its page is what it computes."""

import importlib.util
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "relevance.py"


def loaded():
    described = importlib.util.spec_from_file_location("relevance_bench", BENCH)
    assert described is not None and described.loader is not None
    bench = importlib.util.module_from_spec(described)
    described.loader.exec_module(bench)
    return bench


def page(tmp_path, monkeypatch, *options, bench=None):
    """Run the bench as a reader does, and read its page."""
    bench, out = bench or loaded(), tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", [str(BENCH), "--out", str(out), *options])
    bench.main()
    return out.read_text()


def test_the_page_of_a_run(tiny, tmp_path, monkeypatch):
    of = ["--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--shares", "0.5,0.11"]
    how = [
        "--strategies",
        "foveal,random,downsample",
        "--draws",
        "2",
        "--rounds",
        "1",
        "--side",
        "32",
        "--max-new-tokens",
        "5",
    ]
    told = page(tmp_path, monkeypatch, *of, *how)
    for words in (
        "8 questions about 3 scenes",
        "50% (8), 11% (2)",
        "python bench/relevance.py --run run --data data --out page.md --limit 8 --draws 2 --rounds 1 --side 32",
        "| all | 100.0 (100-100) | 100.0 (100-100) |",
        "| random (2 draws) | ",
        "| downsample | ",
        "| foveal | 8 | shuffled | 8 | ",
        "| foveal | 2 | wrong object | 0 | n/a |",
        "## Time and memory at 16 px",
        "## Time and memory at 32 px",
        "| foveal | 32 | ",
        "| text only (a twin without images) | ",
        "seconds of the process",
    ):
        assert words in told, words
    assert str(tmp_path) not in told and str(tiny.run) not in told


def test_answers_that_are_kept_are_not_asked_again(tiny, tmp_path, monkeypatch):
    of = ["--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--shares", "0.5", "--max-new-tokens", "5"]
    of += ["--rounds", "0", "--draws", "2"]
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    page(tmp_path, monkeypatch, *of, "--strategies", "foveal", "--answers", str(one))
    page(tmp_path, monkeypatch, *of, "--strategies", "random,grid", "--answers", str(other))
    both = [*of, "--strategies", "foveal,grid,random"]
    bench = loaded()
    monkeypatch.setattr(bench, "spend", lambda *given, **named: 1 / 0)
    kept = page(
        tmp_path, monkeypatch, *both, "--answers", str(tmp_path / "all.json"), str(one), str(other), bench=bench
    )
    again = page(tmp_path, monkeypatch, *both, "--answers", str(tmp_path / "all.json"), bench=bench)
    assert again == kept == page(tmp_path, monkeypatch, *both)


def test_another_machine_s_answers_are_told_beside_the_times(tiny, tmp_path, monkeypatch):
    of = ["--run", str(tiny.run), "--data", str(tiny.data), "--limit", "4", "--shares", "0.5", "--max-new-tokens", "5"]
    of += ["--strategies", "grid", "--rounds", "0", "--answers", str(tmp_path / "kept.json")]
    bench = loaded()
    known = bench.made()
    monkeypatch.setattr(bench, "made", lambda: {**known, "hardware": "a large one"})
    page(tmp_path, monkeypatch, *of, bench=bench)
    told = page(tmp_path, monkeypatch, *of)
    assert f"- hardware: {known['hardware']} (times); a large one (answers)" in told
