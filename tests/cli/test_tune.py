"""`foveal tune`, as a user runs it: begun, broken off, gone on with, and its best trained again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import foveal
from foveal.cli import _search, _show, _tuning, tune
from foveal.cli._alone import alone
from foveal.cli._trial import Task
from foveal.cli.main import run
from foveal.core.errors import InputError
from tests.cli.test_train import TINY

RATES = [1e-6, 1e-2, 1e-5, 1e30]  # of which one learns, and one ends in no number
TUNE = [sys.executable, "-m", "foveal.cli.main", "tune", "tune.yaml", "--out", "out", "--json"]


def config(**settings):
    stages = [{**TINY["training"]["stages"][0]}, {"name": "tune", "steps": 40, "batch_size": 6}]
    recipe = {**TINY, "data": {"path": "data"}, "training": {**TINY["training"], "stages": stages}}
    given = {"recipe": recipe, "search": {"training.stages.1.rate": {"choice": RATES}}, "trials": 4, "threads": 1}
    Path("tune.yaml").write_text(yaml.safe_dump({**given, "scheduler": "asha", **settings}))


@pytest.fixture
def home(painted, monkeypatch):
    """Data of three splits beside a search of four trials."""
    rows = Path("data/train.jsonl").read_text().splitlines()
    for split, own in (("val", rows[:6]), ("test", rows[6:])):
        Path(f"data/{split}.jsonl").write_text("\n".join(own))
    monkeypatch.setenv("HOME", str(painted / "home"))
    config()
    return painted


def broken_off():
    """Begin the search, and end it by Ctrl-C when a trial was looked at."""
    going = subprocess.Popen(TUNE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + 150
    while not any(json.loads(file.read_text()).get("looks") for file in Path("out/trials").glob("*.json")):
        assert going.poll() is None and time.monotonic() < ends, going.communicate()
        time.sleep(0.05)
    going.send_signal(signal.SIGINT)
    told, said = going.communicate(timeout=60)
    assert (going.returncode, told) == (130, "")
    return said


def records():
    return {file.stem: json.loads(file.read_text()) for file in sorted(Path("out/trials").glob("*.json"))}


def test_a_search_goes_on_where_it_was_broken_off_and_its_best_is_trained_again(home, capsys):
    config(test={"split": "test"})
    said = broken_off()
    assert "stopped; what is done is kept, go on with: foveal tune tune.yaml --out out --json" in said
    before = {name: told["looks"] for name, told in records().items() if told.get("looks")}
    done = subprocess.run(TUNE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_rate = {row["settings"]["training.stages.1.rate"]: row for row in found["trials"]}
    first, second, *_ = found["trials"]
    assert (first["state"], second["state"]) == ("done", "done") and first["score"] >= second["score"]
    good, bad = by_rate[1e-2], by_rate[1e30]
    assert found["best"]["number"] == good["number"] == found["trials"][0]["number"] and good["score"] > 0
    assert bad["state"] == "failed" and "the gradient is" in bad["error"] and found["trials"][-1] == bad
    stopped = [row for row in found["trials"] if row["state"] == "stopped"]
    assert len(stopped) == 1 and [look["share"] for look in stopped[0]["looks"]] == [0.25]
    assert stopped[0]["steps"] == 13 and good["steps"] == 43
    assert all(records()[name]["looks"][: len(looks)] == looks for name, looks in before.items())
    assert found["test"]["split"] == "test" and found["test"]["told"]["questions"] == 6
    assert found["made"]["versions"].keys() >= {"ray", "torch"} and found["made"]["hardware"]
    assert found | {"results": 0} == {"results": 0, **json.loads(Path("out/results.json").read_text())}
    assert "is stopped: others did better" in done.stderr and "has failed: step" in said + done.stderr
    assert sorted(os.listdir("out")) == ["recipe.yaml", "results.json", "runs", "test.json", "trials"]
    assert not (home / "home").exists() and not Path(good["run"], "checkpoints").exists()

    _, _, *command = shlex.split(found["best"]["command"])
    assert run(["train", *command, "--out", "again"]) == 0
    one, other = foveal.load("again").state_dict(), foveal.load(good["run"]).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)

    written = ("results.json", "recipe.yaml")
    kept = {file: file.stat().st_mtime_ns for file in Path("out").rglob("*.*") if file.name not in written}
    capsys.readouterr()
    assert run(["tune", "tune.yaml", "--out", "out"]) == 0
    told = capsys.readouterr()
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    assert "4 of 4 trials are done" in told.err and "stopped at 25%" in told.out
    assert "it was chosen as the best of 3 on val" in told.out and "once on test, which chose nothing" in told.out
    assert run(["tune", "tune.yaml", "--out", "out", "seed=1"]) == 2
    assert "out holds a search whose trial" in capsys.readouterr().err
    held = Path("data/val.jsonl").read_text().splitlines()
    Path("data/val.jsonl").write_text("\n".join(held[1:]))
    assert run(["tune", "tune.yaml", "--out", "out"]) == 2, "scores of other questions stand beside no others"
    assert "out holds a search whose trial" in capsys.readouterr().err


def test_a_signal_while_ray_starts_ends_the_search_politely(home):
    going = subprocess.Popen(TUNE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert going.stderr is not None
    assert any("0 of 4 trials are done" in line for line in going.stderr)
    time.sleep(1.5)  # wherever it is by now, the end is the same
    going.send_signal(signal.SIGTERM)
    _, said = going.communicate(timeout=60)
    assert going.returncode == 143
    assert "stopped; what is done is kept, go on with: foveal tune tune.yaml --out out --json" in said


@pytest.fixture
def failed(home):
    """A search all of whose trials have failed."""
    wanted = _tuning.read("tune.yaml")
    task, trials = tune._task(wanted, _tuning.trials(wanted), Path("out").resolve(), 1, _show.console(quiet=True))
    for trial in trials:
        task.record(trial).put(**trial.marks, training={"state": "failed", "error": "step 3: the loss is inf"})


def test_a_search_whose_trials_all_fail_is_told_whole(failed, capsys):
    for asked in ([], ["--json"]):
        Path("out/results.json").unlink(missing_ok=True)
        assert run(["tune", "tune.yaml", "--out", "out", *asked]) == 2
        told = capsys.readouterr()
        assert told.err.splitlines()[-1] == "foveal: no trial came to its end: step 3: the loss is inf"
        found = json.loads(Path("out/results.json").read_text())
        assert found["best"] is found["test"] is found["note"] is None
        assert [row["state"] for row in found["trials"]] == ["failed"] * 4
        if asked:
            assert json.loads(told.out) == {"results": "out/results.json", **found}
        else:
            assert told.out.count("trial 0 failed: step 3") == 1 and "results: out/results.json" in told.out


def test_what_differs_from_the_search_that_is_kept_is_told(failed, capsys):
    with alone(Path("out")):
        assert run(["tune", "tune.yaml", "--out", "out"]) == 2
    assert "another foveal works in" in capsys.readouterr().err
    assert run(["tune", "tune.yaml", "--out", "out", "seed=1"]) == 2
    assert "had other settings or was scored otherwise" in capsys.readouterr().err
    held = Path("data/val.jsonl").read_text().splitlines()
    Path("data/val.jsonl").write_text("\n".join(held[1:]))
    assert run(["tune", "tune.yaml", "--out", "out"]) == 2
    assert "trial 0 was trained and scored on data that have changed since" in capsys.readouterr().err
    assert run(["tune", "tune.yaml", "--out", "out", "seed=1"]) == 2
    assert "had other settings or was scored otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["search={}"], "a search over nothing"),
        (["search={training.stages.1.rat: {log: [1.0e-4, 1.0]}}"], "unknown key in recipe.training.stages[1]: 'rat'"),
        (["search={training.stages.5.rate: {log: [1.0e-4, 1.0]}}"], "wants an index from 0 to 1, not '5'"),
        (
            ["search={model.connector: {choice: [linaer]}}", "trials=1"],
            "unknown component of connectors 'linaer'; did you mean",
        ),
        (
            ["search={training.stages.1.batch_size: {choice: [0]}}", "trials=1"],
            "search: trial 0 (training.stages.1.batch_size=0): stage 'tune' has batch_size 0; give more than 0",
        ),
        (["search={data.count: {integer: [1, 5]}}"], "search.data.count makes no other training of the same data"),
        (["search={training.stages.1.rate: {lgo: [1, 2]}}"], "did you mean 'log'"),
        (["search={training.stages.1.rate: {log: [0, 2]}}"], "a log range from 0; give an end above 0"),
        (["search={training.stages.1.rate: {uniform: [2, 1]}}"], "a range from 2 to 1; give the lower end first"),
        (["search={training.stages.1.rate: {log: [1, 2], choice: [1]}}"], "a range by log and choice; give log"),
        (["settings={training.stages.1.rate: 1}"], "stands in settings and in search"),
        (["trials=5"], "trials is 5, and the search has 4 in all"),
        (["trials=0"], "trials is 0; give 1 or more"),
        (["scheduler=hyperband"], "unknown value of tuning.scheduler: 'hyperband'"),
        (["asha={first: 1.0}"], "asha.first is 1; give a share of the last stage"),
        (
            ["metric=exact"],
            "unknown metric of recipe, where answers in words are scored: 'exact'; did you mean",
        ),
        (["evaluation.split=vl"], "unknown split in data 'vl'; did you mean 'val'"),
        (["evaluation.split=train"], "evaluation is to be on data/train.jsonl, which holds what training is on"),
        (["test.split=val"], "test is to be on data/val.jsonl, which holds what evaluation is on"),
        (["data.path=nowhere"], "no data at nowhere"),
        (["gpus=64"], "with gpus 64 each, and this machine has"),
        (["recipe=demoo"], "unknown recipe 'demoo'; did you mean 'demo'"),
        (["tirals=3"], "unknown key in tuning: 'tirals'; did you mean 'trials'"),
        (["--out", "tune.yaml"], "tune.yaml is a file; give --out a directory"),
        (["--out", "data"], "data holds something else than a search"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_begun(home, capsys, settings, words):
    assert run(["tune", "tune.yaml", *(["--out", "out"] if "--out" not in settings else []), *settings]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and "\n" not in told and not Path("out").exists()


def test_what_is_no_search_is_told(home, capsys):
    Path("list.yaml").write_text("- a")
    Path("broken.yaml").write_text("a: [")
    for name, words in (
        ("absent.yaml", "there is no file absent.yaml"),
        ("list.yaml", "holds no mapping"),
        ("broken.yaml", "broken.yaml is not YAML"),
    ):
        assert run(["tune", name]) == 2
        assert words in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(home, capsys, monkeypatch):
    monkeypatch.setattr(_search, "find_spec", lambda name: None)
    assert run(["tune", "tune.yaml"]) == 2
    assert "tune needs ray" in (told := capsys.readouterr().err) and "pip install 'foveal[tune]'" in told


def test_the_same_seed_gives_the_same_trials_and_more_of_them_begin_as_fewer(home):
    search = {
        "training.stages.1.rate": {"log": [1e-4, 1e-2]},
        "training.stages.1.weight_decay": {"uniform": [0.0, 0.2]},
        "model.language.depth": {"integer": [1, 3]},
        "model.connector": {"choice": ["linear", {"name": "mlp", "depth": 2}]},
    }
    config(search=search, trials=40, seed=3)
    drawn = [trial.settings for trial in _tuning.trials(_tuning.read("tune.yaml"))]
    fewer = [trial.settings for trial in _tuning.trials(_tuning.read("tune.yaml", ["trials=5"]))]
    other = [trial.settings for trial in _tuning.trials(_tuning.read("tune.yaml", ["trials=5", "seed=4"]))]
    assert drawn[:5] == fewer != other
    rates = sorted(one["training.stages.1.rate"] for one in drawn)
    assert rates[0] >= 1e-4 and rates[-1] <= 1e-2 and rates[20] < 3e-3  # their middle is near 1e-3, not near 5e-3
    assert {one["model.language.depth"] for one in drawn} == {1, 2, 3}
    assert all(0 <= one["training.stages.1.weight_decay"] <= 0.2 for one in drawn)
    made = _tuning.trials(_tuning.read("tune.yaml", ["trials=5"]))
    for trial in made:
        (_, stage), settings = trial.recipe.training.stages, trial.settings
        assert stage.rate == settings["training.stages.1.rate"]
        assert trial.recipe.model["connector"] == settings["model.connector"]
    assert len({trial.key for trial in made}) == 5


def test_what_is_assigned_is_typed_as_yaml_reads_it(home):
    config(settings={"processor.template": "plain", "training.stages.1.name": "0x10"}, data={"path": "data"})
    wanted = _tuning.read("tune.yaml")
    told = _tuning.assignments(wanted, {"model.connector": {"name": "mlp"}, "training.stages.1.rate": 1e-5})
    assert told == [
        'data={"path": "data"}', "processor.template=plain", 'training.stages.1.name="0x10"',
        'model.connector={"name": "mlp"}', "training.stages.1.rate=1e-05",
    ]  # fmt: skip
    assert _tuning.recipe_of(wanted, {"training.stages.1.rate": 1e-5}).training.stages[1].name == "0x10"


def test_the_scheduler_knows_what_came_of_earlier_trials(home, tmp_path):
    wanted = _tuning.read("tune.yaml", ["asha={first: 0.2, factor: 2}"])
    assert wanted.shares == pytest.approx((0.2, 0.4, 0.8))
    trials = _tuning.trials(wanted)
    judged = {"metric": "exact_match", "evaluation": wanted.evaluation, "shares": wanted.shares, "threads": 1}
    task = Task(out=tmp_path / "out", home=tmp_path, folder=tmp_path, **judged)
    for trial, score in zip(trials[:2], (0.8, 0.6), strict=True):
        looks = [{"share": share, "score": score} for share in wanted.shares]
        task.record(trial).put(key=trial.key, looks=looks, training={"state": "done"})
    made = _search._scheduler(trials, task, wanted)
    asked = {}
    for name, score in (("worse", 0.5), ("better", 0.9)):
        one = SimpleNamespace(trial_id=name)
        made.on_trial_add(None, one)
        asked[name] = made.on_trial_result(None, one, {"score": score, "length": 1})
    assert asked == {"worse": "STOP", "better": "CONTINUE"}


def test_seats_share_the_machine(home):
    wanted = _tuning.read("tune.yaml", ["threads=null", "parallel=1"])
    alone, many = _search.Seats.of(wanted), _search.Seats.of(_tuning.read("tune.yaml", ["threads=null", "parallel=64"]))
    assert alone.threads >= many.threads >= 1
    with pytest.raises(InputError, match="give fewer"):
        _search.Seats.of(_tuning.read("tune.yaml", ["gpus=1000"]))
