import json
import shutil
from dataclasses import replace

import pytest

import foveal
from foveal.cli import _budget
from foveal.cli.main import run
from foveal.core.lookup import spec
from foveal.layers.mosaic import Mosaic
from foveal.models.causal import assemble
from foveal.preprocess.processor import Processor
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.weights.run import Run

LONGEST = ["--max-new-tokens", "5"]


@pytest.fixture
def scored(tiny, capsys):
    """Run `foveal eval --json` on the tiny world with more options, and read what it prints."""

    def score(*options, at=None):
        code = run(["eval", "--run", str(at or tiny.run), "--data", str(tiny.data), "--json", *LONGEST, *options])
        told = capsys.readouterr()
        assert code == 0, told.err
        return json.loads(told.out)

    return score


def test_many_together_get_the_answers_that_each_gets_alone(scored):
    """The truth of these data is what the model said when asked one by one."""
    row = scored()
    assert row["exact_match"] == row["mean_over_kinds"] == 1.0
    assert {kind: (part["accuracy"], part["count"]) for kind, part in row["kinds"].items()} == {
        "where": (1.0, 4),
        "count": (1.0, 4),
        "present": (1.0, 4),
    }
    assert (row["questions"], row["scenes"], row["split"]) == (12, 4, "test")


def test_baselines_are_the_training_majority_and_the_run_without_images(scored):
    row = scored()
    assert 0 <= row["majority"] < 1
    assert 0 <= row["text_only"] < 1
    assert row["majority_from"] == "the first 20,000 training questions"
    assert row["leads"]["text_only"]["exact_match"]["value"] == pytest.approx(1 - row["text_only"])


def test_a_text_only_run_that_is_not_there_is_null_and_said(tiny, scored, tmp_path, capsys):
    alone = tmp_path / "alone"
    shutil.copytree(tiny.run, alone, ignore=shutil.ignore_patterns("text_only"))
    row = scored(at=alone)
    assert row["text_only"] is None
    assert all(part["text_only"] is None for part in row["kinds"].values())
    assert run(["eval", "--run", str(alone), "--data", str(tiny.data), *LONGEST]) == 0
    assert "not trained" in capsys.readouterr().out


def test_another_text_only_run_may_be_named(tiny, scored):
    assert scored("--text-only", str(tiny.run))["text_only"] < 1  # with sight, asked without pictures


def test_a_run_without_sight_is_asked_in_words(tiny, scored):
    row = scored(at=tiny.run / "text_only")
    assert row["exact_match"] == scored()["text_only"]


def test_a_limit_takes_the_first_questions(scored):
    assert scored("--limit", "4")["questions"] == 4


def test_one_file_is_scored_too(tiny, capsys):
    file = tiny.data / "test.jsonl"
    assert run(["eval", "--run", str(tiny.run), "--data", str(file), "--json", *LONGEST]) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 1.0


def test_without_training_questions_the_majority_is_of_the_questions_themselves(tiny, scored):
    row = scored("--split", "train")
    assert row["majority_from"] == "the train questions themselves"
    assert row["majority"] == 1.0  # one answer a kind


def test_the_table_and_the_report(tiny, tmp_path, capsys):
    page = tmp_path / "deep" / "report.html"
    assert run(["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--report", str(page), *LONGEST]) == 0
    told = capsys.readouterr().out
    for words in ("where", "all questions", "mean over kinds", "100.0%", "12 questions about 4 scenes"):
        assert words in told
    text = page.read_text()
    assert "Noise, by a generator." in text
    assert text.count("data:image/jpeg;base64,") == 4
    assert "Where is the fox" in text
    assert run(["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "2", *LONGEST]) == 0
    assert "2 questions about one scene, of which no interval can tell, in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere"], "no data at nowhere"),
        (["--data", "{data}", "--split", "tset"], "did you mean 'test'?"),
        (["--data", "{data}", "--run", "nowhere"], "no directory nowhere"),
        (["--data", "{data}", "--limit", "0"], "--limit 0"),
        (["--data", "{data}", "--seed", "-1"], "--seed is -1; give a number from 0 to 4,294,967,295"),
        (["--data", "{data}", "--batch", "0"], "--batch 1 or more"),
        (["--data", "{data}", "--shots", "-1"], "-1 solved questions before each"),
        (
            ["--data", "{data}", "--shots", "1"],
            "wants 1 solved ones of other scenes, and the training questions have 0",
        ),
        (
            ["--data", "{data}", "--split", "train", "--shots", "1"],
            "--shots 1: solved questions come from a train.jsonl",
        ),
        (["--data", "{data}", "--shots", "2", "--pretraining"], "--shots 2: solved questions go before questions"),
        (["--data", "{data}", "--text-only", "nowhere"], "no directory nowhere"),
        ([], "Missing option '--data'"),
    ],
)
def test_bad_input_is_one_line_and_2(tiny, options, said, capsys):
    filled = [option.format(data=tiny.data) for option in options]
    assert run(["eval", *([] if "--run" in options else ["--run", str(tiny.run)]), *filled]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_answers_are_not_drawn(tiny, capsys):
    assert run(["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--top-p", "0.5"]) == 2
    assert "answers are scored as the best tokens say" in capsys.readouterr().err


def test_what_is_asked_twice_is_scored_once():
    wanted = [("foveal", 20), ("foveal", 8), ("grid", 20), ("grid", 8)]
    assert _budget.many("20,8,20", "foveal, grid,foveal") == wanted
    assert [name for name, _ in _budget.many(None, "foveal,foveal", ("0.1", None))] == ["foveal"]


def test_budgets_are_scored_beside_all_tokens(tiny, capsys):
    arguments = ["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--max-new-tokens", "3"]
    assert run([*arguments, "--budget", "16,4", "--strategy", "foveal,random", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = [(row["strategy"], row["budget"]) for row in told["budgets"]]
    assert names == [("all", None), ("foveal", 16), ("foveal", 4), ("random", 16), ("random", 4)]
    assert told["budgets"][1]["flips"] == told["budgets"][3]["flips"] == 0  # 16 are all there are
    assert run([*arguments, "--budget", "16,few"]) == 2
    assert "holds what is no number" in capsys.readouterr().err


def test_what_is_read_of_images_in_tiles_is_told_and_no_strategy_reads_more_than_there_is(tiny, tmp_path, capsys):
    made = foveal.load(tiny.run)
    config = replace(made.model.config, mosaic=Mosaic(order="raster", newline=True))
    tiling = Tiling(kind="anyres", tile=16, pinpoints=((16, 32), (32, 32)))
    processor = replace(made.processor.config, image=ImageTransform(size=16, tiling=tiling), context=200)
    tiled = Run(assemble(config).eval(), Processor(tokenizer=made.processor.tokenizer, config=processor))
    tiled.save(tmp_path / "run")
    every = tiled.answer(tiny.picture, "How many").visual_tokens
    over, cells = every + 1, 6 * 8  # 20 x 28 pixels fill 6 x 8 of the 8 x 8 cells of four tiles
    arguments = ["eval", "--run", str(tmp_path / "run"), "--data", str(tiny.data), "--limit", "4", *LONGEST]
    arguments += ["--strategy", "foveal,downsample", "--json"]
    assert run([*arguments, "--budget", f"{over},{every - 1},5"]) == 0
    rows = {(one["strategy"], one["budget"]): one for one in json.loads(capsys.readouterr().out)["budgets"]}
    assert rows["all", None]["tokens"] == every
    for name in ("foveal", "downsample"):
        assert [rows[name, budget]["tokens"] for budget in (over, every - 1, 5)] == [every, cells, 5]
        assert rows[name, over]["flips"] == 0
        note = f"a budget of {over} for pictures of at most {every} visual tokens: all are read"
        assert tiled.answer(tiny.picture, "How many", budget=over, strategy=name).note == note
        assert tiled.answer(tiny.picture, "How many", budget=every - 1, strategy=name).note == ""


def test_a_price_is_scored_and_tells_what_was_read(tiny, capsys):
    arguments = ["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--max-new-tokens", "3"]
    rows = {}
    for given in ("1e-9:1-16", "0.02:1-9"):
        assert run([*arguments, "--price", given, "--strategy", "foveal,random", "--batch", "4", "--json"]) == 0
        whole, ours, lots = json.loads(capsys.readouterr().out)["budgets"]
        assert whole["tokens"] == 16 and "tells no token's gain" in lots["refused"]
        rows[ours["budget"]] = ours
    assert rows["price 1e-09"]["flips"] == 0 and rows["price 1e-09"]["tokens"] == 16
    assert 1 <= rows["price 0.02"]["tokens"] <= 9
    assert run([*arguments, "--price", "1", "--controls"]) == run([*arguments, "--price", "1", "--budget", "9"]) == 2
    assert "--controls and a price 1; give one of the two" in capsys.readouterr().err
    assert run([*arguments, "--price", "1"]) == 0
    assert "8 questions; flips" in capsys.readouterr().out


def test_a_total_is_shared_by_the_pictures_of_a_batch(tiny, capsys):
    arguments = ["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--max-new-tokens", "3"]
    for total, each in (("48", 6), ("128", 16)):
        assert run([*arguments, "--total", total, "--batch", "8", "--json"]) == 0
        _, ours = json.loads(capsys.readouterr().out)["budgets"]
        assert ours["budget"] == f"total {total}" and ours["tokens"] == each
    assert ours["flips"] == 0  # 16 a picture are all there are
    assert run([*arguments, "--total", "3", "--batch", "8", "--json"]) == 0
    assert "a total of 3 visual tokens for 8 images" in json.loads(capsys.readouterr().out)["budgets"][1]["refused"]
    assert run([*arguments, "--total", "64", "--price", "1"]) == 2
    assert "--price 1 and --total 64; give one of the two" in capsys.readouterr().err


def test_strategies_that_cannot_be_say_why_and_pictures_are_encoded_once(tiny, capsys, monkeypatch):
    from foveal.vision.vit import Vit

    seen, embed = [], Vit.embed
    monkeypatch.setattr(Vit, "embed", lambda self, values: seen.append(len(values)) or embed(self, values))
    arguments = ["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--max-new-tokens", "3"]
    strategies = "foveal,cdpruner,visionzip,fastv,tome"
    assert run([*arguments, "--budget", "16,4", "--strategy", strategies, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {(row["strategy"], row["budget"]): row for row in told["budgets"]}
    pictures = sum(seen)
    assert "cuts before layer 2 of a language model with 2" in rows["fastv", 4]["refused"]
    assert rows["visionzip", 4]["tokens"] == 4 and rows["all", None]["tokens"] == 16
    for name in ("foveal", "cdpruner", "visionzip", "tome"):
        assert rows[name, 16]["flips"] == 0
    seen.clear()
    assert run([*arguments, "--budget", "4", "--strategy", "random"]) == 0
    assert sum(seen) == pictures
    assert run([*arguments, "--budget", "4", "--strategy", "fastv,tome"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "n/a: strategy 'fastv' cuts before layer 2" in shown


def test_lots_are_drawn_and_controls_are_steered_by_others(tiny, capsys):
    arguments = ["eval", "--run", str(tiny.run), "--data", str(tiny.data), "--limit", "8", "--max-new-tokens", "3"]
    assert run([*arguments, "--controls"]) == run([*arguments, "--draws", "2"]) == 2
    assert "--controls is of budgets and there is none" in capsys.readouterr().err
    spent = ["--budget", "6", "--strategy", "foveal,random", "--draws", "2", "--controls"]
    assert run([*arguments, *spent, "--json"]) == 0
    whole, foveal, lots = json.loads(capsys.readouterr().out)["budgets"]
    assert (whole["divergence"], whole["draws"], foveal["draws"], lots["draws"]) == (0, 1, 1, 2)
    assert foveal["divergence"] > 0 < lots["divergence"]
    assert foveal["controls"].keys() == {"shuffled", "empty", "wrong_object"} and "controls" not in lots
    assert foveal["controls"]["empty"]["questions"] == foveal["controls"]["shuffled"]["questions"] == 8
    assert foveal["controls"]["wrong_object"] == {"questions": 0, "lost": None}  # the data have no boxes
    assert run([*arguments, *spent]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "points lost" in shown and "n/a" in shown
    assert run([*arguments, "--budget", "6", "--draws", "0"]) == 2
    assert "--draws 0" in capsys.readouterr().err


def test_what_a_strategy_cannot_spend_is_told_and_the_others_go_on(tiny, tmp_path, capsys):
    """Latents lie on no grid: only the layout of a question tells."""
    made = foveal.load(tiny.run)
    latents = spec("connectors", {"name": "perceiver", "latents": 4, "depth": 1, "heads": 2, "head_width": 8})
    model = assemble(replace(made.model.config, connector=latents)).eval()
    Run(model, made.processor).save(tmp_path / "run")
    arguments = ["eval", "--run", str(tmp_path / "run"), "--data", str(tiny.data), "--limit", "4"]
    assert run([*arguments, "--max-new-tokens", "2", "--budget", "2", "--strategy", "random,all", "--json"]) == 0
    whole, lots, every = json.loads(capsys.readouterr().out)["budgets"]
    assert "grid" in lots["refused"]
    assert (whole["tokens"], every["tokens"], every["flips"]) == (4, 4, 0)
