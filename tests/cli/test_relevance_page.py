"""bench/relevance.py on the tiny world: its page is what it computes."""

import importlib.util
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "relevance.py"


def page(tmp_path, monkeypatch, *options):
    """Run the bench as a reader does, and read its page."""
    described = importlib.util.spec_from_file_location("relevance_bench", BENCH)
    assert described is not None and described.loader is not None
    bench = importlib.util.module_from_spec(described)
    described.loader.exec_module(bench)
    out = tmp_path / "page.md"
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
