"""What users have named is shown as they wrote it."""

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from foveal.cli import _show
from foveal.cli.main import run

ODD = ["[red]", "q[/a]", "a [b", ":smile:", "{task}"]


def test_text_that_looks_like_markup_stays(capsys):
    at = _show.console()
    at.print(_show.table([ODD[1]], [[text] for text in ODD]))
    for text in ODD:
        at.print(text)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [ODD[1], *ODD, *ODD]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_cell_is_cut_and_every_part_says_what_its_rows_are_about(width):
    heads = ["strategy", "budget", "exact", "mean over kinds", "a kind of questions", "time"]
    rows = [["average_pool", "64", "33.3%", "25.0%", "1.25%", "0.12"], ["foveal", "all", *["n/a"] * 4]]
    at = Console(width=width, record=True, markup=False)
    at.print(_show.table(heads, rows, left=["strategy"], keys=2), soft_wrap=True)
    parts = [part.splitlines() for part in at.export_text().strip().split("\n\n")]
    for head, row in zip(heads[2:], rows[0][2:], strict=True):
        (part,) = [part for part in parts if head in part[0]]
        assert row in part[1].split()
    for part in parts:
        assert [len(part), *part[0].split()[:2], *part[1].split()[:2]] == [3, *heads[:2], *rows[0][:2]]
    assert len(parts) == {20: 4, 60: 2, 80: 1, 200: 1}[width]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters(encoding):
    """Nothing is lost: escapes stand for them."""
    code = "from foveal.cli import _show; _show.print_json({'text': '\U0001f98a \xfc'})"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    assert json.loads(told.stdout.decode(encoding)) == {"text": "\U0001f98a \xfc"}


@pytest.mark.parametrize("text", ODD)
def test_a_bar_is_named_as_it_is(text):
    at = Console(force_terminal=True, width=100, record=True)
    with _show.bar(at, text, 3) as advance:
        advance(1)
    assert text in at.export_text()


@pytest.mark.parametrize("kind", ODD)
def test_kinds_of_questions_stand_in_tables(tiny, tmp_path, capsys, kind):
    lines = [json.loads(line) for line in (tiny.data / "test.jsonl").read_text().splitlines()[:2]]
    for line in lines:
        line["meta"]["kind"] = kind
        line["images"] = [str(tiny.data / name) for name in line["images"]]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["data", "inspect", str(tmp_path)]) == 0
    assert kind in capsys.readouterr().out
    assert run(["eval", "--run", str(tiny.run), "--data", str(tmp_path), "--max-new-tokens", "2"]) == 0
    assert kind in capsys.readouterr().out


def test_a_number_that_is_none_is_null_in_json(capsys):
    _show.print_json({"a": [float("nan"), 1.5], "b": (float("inf"), True)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None, True]}


def test_a_terminal_of_no_columns_is_none(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert _show.console().width > 80
