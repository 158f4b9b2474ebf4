"""What users have named is shown as they wrote it."""

import json

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
