import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.cli.ask import pieces
from foveal.cli.main import run
from foveal.decode.generate import spoken
from foveal.preprocess.processor import Processor, ProcessorConfig
from tests.preprocess.conftest import byte_level

FEW = ["--max-new-tokens", "5"]


def asked(capsys, *arguments):
    assert run(["ask", *map(str, arguments), *FEW]) == 0
    return capsys.readouterr().out


def test_the_answer_is_the_same_in_every_form(tiny, capsys):
    question = "Where is the fox?"
    streamed = asked(capsys, tiny.picture, question, "--run", tiny.run)
    assert streamed.strip()
    assert streamed == asked(capsys, tiny.picture, question, "--run", tiny.run, "--no-stream")
    row = json.loads(asked(capsys, tiny.picture, question, "--run", tiny.run, "--json"))
    assert row["answer"] == streamed.strip()
    assert (row["visual_tokens"], row["images"], row["prompt"]) == (16, [str(tiny.picture)], question)
    assert 1 <= row["tokens"] <= 5


def test_words_may_be_drawn(tiny, capsys):
    hot = [asked(capsys, tiny.picture, "x", "--run", tiny.run, "--temperature", "9", "--seed", s) for s in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]
    best = asked(capsys, tiny.picture, "x", "--run", tiny.run)
    assert asked(capsys, tiny.picture, "x", "--run", tiny.run, "--top-k", "1") == best
    for words in (["--temperature", "nan"], ["--temperature", "inf"], ["--temperature", "1", "--seed", str(2**64)]):
        assert run(["ask", str(tiny.picture), "x", "--run", str(tiny.run), *words]) == 2
        assert f"{words[-2]} {words[-1]} " in capsys.readouterr().err
    assert run(["ask", str(tiny.picture), "x", "--run", str(tiny.run), "--temperature", "0"]) == 2
    assert "give a positive number" in capsys.readouterr().err


def test_several_pictures(tiny, capsys):
    row = json.loads(asked(capsys, tiny.picture, tiny.picture, "How many?", "--run", tiny.run, "--json"))
    assert row["visual_tokens"] == 32


def test_standard_input_is_a_picture(tiny, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(tiny.picture.read_bytes())))
    piped = asked(capsys, "-", "How many?", "--run", tiny.run)
    assert piped == asked(capsys, tiny.picture, "How many?", "--run", tiny.run)


def test_words_alone(tiny, capsys):
    row = json.loads(asked(capsys, "How many?", "--run", tiny.run / "text_only", "--json"))
    assert row["images"] == [] and row["visual_tokens"] == 0 and row["answer"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.png", "How many?"], "nowhere.png: there is no such image file"),
        (["{text}", "How many?"], "is not a picture"),
        (["{empty}", "How many?"], "is empty"),
        (["{picture}", "  "], "the question is empty"),
        (["{picture}", "{picture}"], "add a question after it"),
        (["{picture}", "-"], "add a question after it"),
        (["-", "-", "How many?"], "named twice"),
        (["{picture}", "How many? " * 80], "the context holds 80"),
        (["{picture}", "How many?", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["{picture}", "How many?", "--run", "nowhere"], "no directory nowhere"),
        (["{picture}", "How many?", "--run", "{blind}"], "without a vision encoder"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_2(tiny, tmp_path, arguments, said, capsys):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    places = {"text": tmp_path / "text.png", "empty": tmp_path / "empty.png"}
    filled = [word.format(picture=tiny.picture, blind=tiny.run / "text_only", **places) for word in arguments]
    assert run(["ask", *filled, *([] if "--run" in arguments else ["--run", str(tiny.run)])]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1 and told.out == ""


@pytest.mark.parametrize(
    ("texts", "printed"),
    [
        (["a", "a fox", "a fox."], ["a", " fox", "."]),
        (["caf\ufffd", "caf\u00e9"], ["caf\u00e9"]),
        (["one", "two"], ["one", "\ntwo"]),
        ([], []),
        ([""], [""]),
        (["a", "a\ufffd"], ["a", "\ufffd"]),
    ],
)
def test_pieces_put_together_are_the_answer(texts, printed):
    assert list(pieces(texts)) == printed


@pytest.fixture(scope="module")
def speaker():
    """Words of bytes, most of whose letters of other scripts are several tokens."""
    return Processor(tokenizer=byte_level(), config=ProcessorConfig(template="qa"))


@given(text=st.text("ab ?\n'\u4f60\u597d\u00e9\u200d\U0001f600\U0001f469\ufffd", max_size=12), ended=st.booleans())
def test_letters_of_several_tokens_come_whole(speaker, text, ended):
    stops = speaker.stop_ids
    ids = [*speaker.tokenizer.encode(text, add_special_tokens=False), *stops[:1] * ended]
    said = [speaker.text(spoken(ids[:count], stops)) for count in range(1, len(ids) + 1)]
    printed = list(pieces(said))
    assert "".join(printed) == text.strip()
    assert all(piece in text for piece in printed)


@pytest.mark.parametrize("form", ["--json", "--stream", "--no-stream"])
def test_a_budget_above_all_tokens_is_told_once(tiny, capsys, form):
    assert run(["ask", str(tiny.picture), "x", "--run", str(tiny.run), "--budget", "99", form]) == 0
    said = capsys.readouterr()
    where, other = (said.out, said.err) if form == "--json" else (said.err, said.out)
    assert where.count("a budget of 99 for pictures of at most 16 visual tokens: all are read") == 1
    assert "all are read" not in other


def test_a_budget_is_kept_and_drawn(tiny, capsys, tmp_path):
    out = tmp_path / "looked.png"
    row = json.loads(
        asked(capsys, tiny.picture, "Where is it?", "--run", tiny.run, "--budget", "5", "--map", out, "--json")
    )
    assert row["visual_tokens"] == 5
    with Image.open(out) as sheet:
        assert sheet.width > 4 * sheet.height
    assert run(["ask", str(tiny.picture), "x", "--run", str(tiny.run), "--budget", "99", "--map", str(out)]) == 2
    assert "no picture was cut by relevance" in capsys.readouterr().err


def test_the_strategy_all_needs_no_budget(tiny, capsys):
    row = json.loads(asked(capsys, tiny.picture, "How many?", "--run", tiny.run, "--strategy", "all", "--json"))
    assert row["visual_tokens"] == 16 and "note" not in row


def test_a_price_and_a_total_are_kept_and_drawn(tiny, capsys, tmp_path):
    out = tmp_path / "looked.png"

    def cost(*arguments, pictures=1):
        row = asked(capsys, *[tiny.picture] * pictures, "Where is it?", "--run", tiny.run, *arguments, "--json")
        return json.loads(row)["visual_tokens"]

    assert cost("--price", "1e-9:2-16") == 16 and cost("--price", "9:2-16") == 2
    assert 2 <= cost("--price", "0.01:2-9", "--map", out) <= 9
    assert cost("--total", "7", pictures=2) == 7 and out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "0"], "a budget of 0 visual tokens"),
        (["--strategy", "random"], "give --budget"),
        (["--strategy", "foveal"], "--strategy foveal spends a budget and there is none"),
        (["--budget", "4", "--strategy", "fovael"], "did you mean 'foveal'"),
        (["--price", "0.1", "--budget", "4"], "--budget 4 and a price 0.1; give one of the two"),
        (["--price", "0.1", "--total", "4"], "--price 0.1 and --total 4; give one of the two"),
        (["--price", "cheap"], "--price cheap holds what is no number; give 0.001 or 0.001:64-400"),
        (["--total", "9:3"], "--total 9:3 holds what is no number; give 128 or 128:16-100"),
        (["--price", "0"], "a price of 0 a token"),
        (["--total", "9:5-4"], "5 to 4 tokens an image"),
        (["--total", "9", "--strategy", "random"], "strategy 'random' tells no token's gain"),
    ],
)
def test_budgets_that_make_no_sense(tiny, capsys, arguments, said):
    assert run(["ask", str(tiny.picture), "x", "--run", str(tiny.run), *arguments]) == 2
    assert said in capsys.readouterr().err
