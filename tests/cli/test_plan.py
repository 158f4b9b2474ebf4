"""`foveal plan`, as a user runs it, against what the training of the same recipe then does."""

import json
from pathlib import Path

import pytest
import yaml

from foveal.cli import _recipe
from foveal.cli._cost import order_of
from foveal.cli._training import Batches, prepared
from foveal.cli._unseen import feed_of
from foveal.cli.main import run
from foveal.training.lora import adapted
from foveal.training.objective import objective
from foveal.training.parts import learning
from tests.cli.test_train import TINY

ALIGN = "training.stages.0"
DEEP = ("model.language.depth=4",)  # of one layer all is whole at once


@pytest.fixture
def home(painted):
    """A directory with data, a recipe of two stages, and caches of its own."""
    Path("tiny.yaml").write_text(yaml.safe_dump({**TINY, "data": {"path": str(painted / "data")}}))
    return painted


def planned(capsys, *arguments):
    assert run(["plan", "tiny.yaml", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def quick(capsys, *arguments):
    """The plan at a speed that is given: no step is timed."""
    return planned(capsys, *arguments, "--speed", "1")


def micros(number, *settings, steps):
    """What the training of a stage is handed in so many steps."""
    recipe = _recipe.read("tiny.yaml", settings)
    stage = recipe.training.stages[number]
    _, data, made = prepared(recipe, say=print, bar=_silent)
    batches = Batches(made, recipe, data, say=print, bar=_silent)
    feed = feed_of(batches, stage, order_of(recipe, stage, data))
    return made.model, stage, [feed[number] for number in range(steps * stage.accumulate)]


def _silent(what, total):
    from foveal.cli import _show

    return _show.bar(_show.console(quiet=True), what, total)


@pytest.mark.parametrize("settings", [(), ("training.features=null", f"{ALIGN}.accumulate=2")])
def test_tokens_and_steps_are_those_that_the_training_sees(home, capsys, settings):
    told = quick(capsys, *settings)
    assert run(["train", "tiny.yaml", *settings, "--json"]) == 0
    assert told["total"]["steps"] == json.loads(capsys.readouterr().out)["steps"]
    for number, stage in enumerate(told["stages"]):
        _, wanted, made = micros(number, *settings, steps=stage["steps"])
        assert stage["tokens"]["all"] == sum(micro.tokens for micro in made)
        assert stage["examples"] == sum(micro.examples for micro in made)
        assert stage["samples"] == wanted.batch_size * len(made)
        slots = [micro.batch.image_slot for micro in made]
        text = [micro.batch.valid & (slot < 0) for micro, slot in zip(made, slots, strict=True)]
        assert stage["tokens"]["text"]["most"] == max(int(row.sum(1).max()) for row in text)
        mean = sum(int(row.sum()) for row in text) / stage["samples"]
        assert stage["tokens"]["text"]["mean"] == pytest.approx(mean)
        assert stage["tokens"]["visual"] == {"mean": 4, "most": 4}
        assert stage["looked_at"] == {"batches": len(made), "of": len(made)}


@pytest.mark.parametrize(
    "settings",
    [(), (f"{ALIGN}.lora={{rank: 2}}",), (f"{ALIGN}.then=[{{at: 0.5, train: [language.layers, connector]}}]",)],
)
def test_what_is_said_to_learn_is_what_gets_gradients(home, capsys, settings):
    told = quick(capsys, *settings)["stages"][0]["parameters"]
    model, stage, (first, *_) = micros(0, *settings, steps=3)
    learned = set()
    with adapted(model, stage.lora):
        every = sum(parameter.numel() for parameter in model.parameters())
        for _, phase in stage.phases():
            with learning(model, phase):
                objective(phase.objective)(model, first.batch)[0].backward()
                learned |= {parameter for parameter in model.parameters() if parameter.grad is not None}
    assert told == {"all": every, "trained": sum(parameter.numel() for parameter in learned)}


def test_cached_features_leave_the_encoder_out_and_its_work_comes_before(home, capsys):
    cached, seen = quick(capsys), quick(capsys, "training.features=null")
    (one, _), (other, _) = cached["stages"], seen["stages"]
    assert one["operations"] < other["operations"] and one["memory"]["activations"] <= other["memory"]["activations"]
    assert one["features"]["images"] == 6 and other["features"] is None
    assert one["features"]["operations"] == pytest.approx(6 * (other["operations"] - one["operations"]) / 4)
    assert cached["stages"][1]["features"] is None  # they are there by then
    hours = one["features"]["hours"] + sum(stage["hours"] for stage in cached["stages"])
    assert cached["total"]["hours"] == pytest.approx(hours)
    assert run(["train", "tiny.yaml", f"{ALIGN}.steps=1"]) == 0
    capsys.readouterr()
    assert quick(capsys)["stages"][0]["features"]["images"] == 0


def test_a_frozen_encoder_keeps_nothing(home, capsys):
    plain = "training.features=null"
    frozen, learns = quick(capsys, plain), quick(capsys, plain, f"{ALIGN}.train=[vision, connector]")
    (one, _), (other, _) = frozen["stages"], learns["stages"]
    assert one["memory"]["activations"] < other["memory"]["activations"]
    assert one["memory"]["optimizer"] < other["memory"]["optimizer"]


def test_more_micro_batches_in_a_step_take_no_more_memory_each(home, capsys):
    ways = [(f"{ALIGN}.accumulate={count}", f"{ALIGN}.steps={3 // count}") for count in (1, 3)]  # of the same batches
    one, three = (quick(capsys, *settings)["stages"][0] for settings in ways)
    same = ("weights", "gradients", "optimizer", "casts", "activations")
    assert [one["memory"][part] for part in same] == [three["memory"][part] for part in same]
    assert three["memory"]["turns"] == 0  # gradients stay from one to the next
    assert three["operations"] == pytest.approx(3 * one["operations"])
    assert three["samples"] == one["samples"] and three["tokens"]["all"] == one["tokens"]["all"]


def test_devices_take_turns_at_the_data_and_share_by_zero(home, capsys):
    one, *many = (quick(capsys, *DEEP, "--gpus", "4", "--zero", str(zero)) for zero in range(4))
    for held, part in zip(many, ("optimizer", "gradients", "weights"), strict=True):
        assert held["stages"][1]["memory"][part] < one["stages"][1]["memory"][part]
    alone = quick(capsys, *DEEP)
    assert one["stages"][0]["samples"] == 4 * alone["stages"][0]["samples"]
    assert [stage["steps"] for stage in alone["stages"]] == [3, 2] and one["stages"][1]["steps"] == 1  # epochs
    assert one["stages"][0]["seconds"] == pytest.approx(alone["stages"][0]["seconds"], rel=0.2)


def test_a_pipeline_parts_the_layers_and_its_groups_take_turns_at_the_data(home, capsys):
    settings = (*DEEP, "training.stages.1.objective=next_token", "training.stages.1.accumulate=2")
    alone = quick(capsys, *settings)
    row, both, recipe = (
        quick(capsys, *settings, *more)
        for more in (
            ("--gpus", "2", "--pipeline", "2"),
            ("--gpus", "4", "--pipeline", "2"),
            ("--gpus", "2", "training.pipeline=2"),
        )
    )
    assert row["stages"] == recipe["stages"]
    for one, other, twice in zip(alone["stages"], row["stages"], both["stages"], strict=True):
        assert other["samples"] == one["samples"] and other["operations"] == pytest.approx(one["operations"])
        assert twice["steps"] * twice["operations"] == pytest.approx(twice["steps"] * 2 * one["operations"], rel=0.2)
        assert one["memory"]["weights"] / 3 < other["memory"]["weights"] < one["memory"]["weights"]
        assert one["memory"]["activations"] / 3 < other["memory"]["activations"]  # of up to two micro-batches at once
    tuned = row["stages"][1]
    assert tuned["seconds"] == pytest.approx(alone["stages"][1]["seconds"] / 2 * (1 + 1 / 2))
    assert tuned["memory"]["optimizer"] < 0.8 * alone["stages"][1]["memory"]["optimizer"]


def test_zero_on_one_device_is_said_to_change_nothing(home, capsys):
    assert run(["plan", "tiny.yaml", "--zero", "2", "--speed", "1"]) == 0
    out = capsys.readouterr().out
    assert "--zero 2 makes no difference: there is none to share with" in out and "at 1 TFLOP/s each" in out


def test_layers_that_devices_split_are_held_in_parts_and_the_rest_is_whole(home, capsys):
    one, two = quick(capsys, *DEEP), quick(capsys, *DEEP, "--gpus", "2", "--tensor", "2")
    for whole, split in zip(one["stages"], two["stages"], strict=True):
        for part in ("weights", "activations"):
            assert whole["memory"][part] / 2 < split["memory"][part] < whole["memory"][part]
        assert (split["steps"], split["samples"]) == (whole["steps"], whole["samples"])  # they see the same
        assert whole["operations"] < split["operations"] < 2 * whole["operations"]  # of both; the head is in each
        assert split["parameters"] == whole["parameters"]
    learned = [told["stages"][1]["memory"] for told in (one, two)]
    assert all(learned[0][part] / 2 < learned[1][part] < learned[0][part] for part in ("gradients", "optimizer"))
    four = quick(capsys, *DEEP, "--gpus", "4", "training.tensor=2", "--zero", "3")
    assert four["stages"][1]["memory"]["optimizer"] == -(-learned[1]["optimizer"] // 2)
    assert four["stages"][0]["samples"] == 2 * one["stages"][0]["samples"]


def test_what_is_advised_fits_when_it_is_planned_anew(home, capsys):
    held = [stage["memory"] for stage in quick(capsys)["stages"]]
    limit = (held[1]["total"] - held[1]["activations"] // 2) / 2**30
    told = quick(capsys, "--memory", f"{limit:.9f}")
    assert [stage["fits"] for stage in told["stages"]] == [True, False] and told["stages"][0]["advice"] == []
    (way,) = told["stages"][1]["advice"]
    again = quick(capsys, *way["settings"], "--memory", f"{limit:.9f}")["stages"][1]
    assert again["fits"] and again["memory"]["total"] == pytest.approx(way["total"], rel=0.02)
    assert (again["steps"], again["samples"]) == (told["stages"][1]["steps"], told["stages"][1]["samples"])


def test_sharing_is_advised_where_it_fits(home, capsys):
    settings = ("model.language.width=64", f"{ALIGN}.train=[language, connector, head]", f"{ALIGN}.batch_size=1")
    memory = quick(capsys, *settings, "--gpus", "8")["stages"][0]["memory"]
    limit = (memory["total"] - memory["optimizer"] // 2) / 2**30
    told = quick(capsys, *settings, "--gpus", "8", "--memory", f"{limit:.9f}")["stages"][0]
    assert told["advice"][-1]["settings"] == ["--zero 1"]
    again = quick(capsys, *settings, "--gpus", "8", "--zero", "1", "--memory", f"{limit:.9f}")["stages"][0]
    assert again["fits"] and again["memory"]["total"] == pytest.approx(told["advice"][-1]["total"], rel=0.02)


def test_where_nothing_fits_it_is_said(home, capsys):
    assert run(["plan", "tiny.yaml", "--speed", "1", "--memory", "1e-6"]) == 0
    out = capsys.readouterr().out
    assert "align: does not fit" in out and "and no smaller batch nor more devices would" in out


def test_settings_change_what_is_planned(home, capsys):
    small, large = (quick(capsys, f"{ALIGN}.batch_size={size}")["stages"][0] for size in (2, 6))
    assert large["memory"]["activations"] > 2 * small["memory"]["activations"]
    assert large["tokens"]["step"] == pytest.approx(3 * small["tokens"]["step"], rel=0.2)
    assert quick(capsys, f"{ALIGN}.steps=7")["stages"][0]["steps"] == 7


def test_time_is_measured_here_where_no_speed_is_given(home, capsys):
    told = planned(capsys, f"{ALIGN}.minutes=0.5", f"{ALIGN}.steps=null")
    stage, other = told["stages"]
    assert stage["measured"] and stage["seconds"] > 0 and stage["hours"] == pytest.approx(0.5 / 60)
    assert stage["steps"] == pytest.approx(30 / stage["seconds"], abs=1)
    assert other["hours"] == pytest.approx(2 * other["seconds"] / 3600)
    assert told["for"]["device"] == "cpu" and told["for"]["hardware"] and told["for"]["threads"] >= 1
    fast, slow = (planned(capsys, "--speed", str(speed))["stages"][0] for speed in (2, 1))
    assert slow["seconds"] == pytest.approx(2 * fast["seconds"]) == slow["operations"] / 1e12


def test_the_clock_ends_it(home, capsys):
    told = quick(capsys, "training.max_minutes=1e-9")
    assert told["total"]["hours"] == pytest.approx(1e-9 / 60 + told["total"]["features"])


def test_nothing_is_written_where_it_was_called(home, capsys):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    planned(capsys)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_without_images_only_words_are_counted(home, capsys):
    (stage,) = quick(capsys, "text_only=true")["stages"]
    assert stage["tokens"]["visual"] == {"mean": 0, "most": 0} and stage["features"] is None


def test_other_data_and_a_table(home, capsys):
    lines = Path("data/train.jsonl").read_text().splitlines()
    Path("data/few.jsonl").write_text("\n".join(lines[:4]))
    given = ["plan", "tiny.yaml", "data.split=train", "--data", "data/few.jsonl", f"{ALIGN}.batch_size=2"]
    assert run([*given, "--gpus", "2", "--zero", "1", "--memory", "1", "--speed", "100"]) == 0
    out = capsys.readouterr().out
    for said in ("align: fits", "memory of a device", "tokens of a step", "for 2 devices of 1.00 GiB, ZeRO 1", "total"):
        assert said in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny.yaml", "--gpus", "0"], "--gpus 0; give 1 or more"),
        (["tiny.yaml", "--zero", "4"], "--zero 4; give 0"),
        (["tiny.yaml", "--pipeline", "0"], "--pipeline 0; give 1 or more"),
        (["tiny.yaml", "--pipeline", "2"], "--pipeline 2 for --gpus 1; give --gpus a multiple of 2"),
        (["tiny.yaml", "training.pipeline=2", "--gpus", "2", "--zero", "3"], "--pipeline 2 and --zero 3; take one"),
        (["tiny.yaml", "--tensor", "2"], "--tensor 2 with --gpus 1; give --gpus 2 or a multiple of it"),
        (["tiny.yaml", "--tensor", "0"], "--tensor 0 with --gpus 1; give 1 or more"),
        (["tiny.yaml", "--gpus", "5", "--tensor", "5"], "training.tensor is 5, and no layer can be split so"),
        (["tiny.yaml", "--gpus", "4", "--tensor", "2", "--pipeline", "2"], "--pipeline 2 and --tensor 2; take one"),
        (["tiny.yaml", "--memory", "-1"], "--memory -1; give more than 0"),
        (["tiny.yaml", "--speed", "0"], "--speed 0; give more than 0"),
        (["tiny.yaml", f"{ALIGN}.batchsize=2"], "batchsize"),
        (["tiny.yaml", f"{ALIGN}.train=[conector]"], "connector"),
        (["tiny.yaml", f"{ALIGN}.lora={{rank: 2, targets: [nobody]}}"], "nobody"),
        (["tiny"], "tiny"),
        (["tiny.yaml", f"{ALIGN}.kinds={{caption: 1}}"], "caption"),
        (["tiny.yaml", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_2(home, capsys, arguments, said):
    assert run(["plan", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and said in told.err
    assert told.err.count("\n") == 1 and told.err.startswith("foveal: ")
