"""A line of JSON an entry; a bar or a line now and then."""

import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from foveal.core.errors import InputError
from foveal.training import log as module
from foveal.training.config import Stage, TrainingConfig
from foveal.training.log import Entry, Log
from foveal.training.loop import train

ENTRY = Entry(
    step=3,
    stage="align",
    loss=1.25,
    rate=1e-3,
    gradient=0.5,
    seconds=2.0,
    tokens=1234.56,
    examples=7.0,
    done=0.25,
    left=3700.0,
    parts={"cells": 0.75, "prior_regions": 2.5},
)


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_entries_are_lines_of_json(tmp_path):
    with Log(tmp_path) as log:
        log.write(ENTRY)
    assert rows(tmp_path) == [
        {
            "step": 3,
            "stage": "align",
            "loss": 1.25,
            "loss_cells": 0.75,
            "prior_regions": 2.5,
            "learning_rate": 1e-3,
            "gradient_norm": 0.5,
            "seconds": 2.0,
            "tokens_per_second": 1234.6,
            "examples_per_second": 7.0,
        }
    ]


def test_a_resumed_run_writes_the_lost_entries_again(tmp_path):
    with Log(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(replace(ENTRY, step=step))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "sta')
    with Log(tmp_path, from_step=2) as log:
        log.write(replace(ENTRY, step=3, loss=0.5))
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1.25), (2, 1.25), (3, 0.5)]


def test_a_damaged_last_line_is_written_again_and_another_is_told(tmp_path):
    whole = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2))
    for last in (b"{\xff\n", b"5\n", b'{"stage": 1}\n', b"{"):
        (tmp_path / "log.jsonl").write_bytes(whole.encode() + last)
        with Log(tmp_path, from_step=2) as log:
            log.write(ENTRY)
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    (tmp_path / "log.jsonl").write_text(f"{{}}\n{whole}")
    with pytest.raises(InputError, match=r"log.jsonl:1 is damaged: '{}'; remove this line, or begin anew with --fresh"):
        Log(tmp_path, from_step=2)
    with Log(tmp_path) as log:
        log.write(ENTRY)
    assert [row["step"] for row in rows(tmp_path)] == [3]


def test_where_nobody_watches_it_tells_now_and_then(tmp_path, capsys, monkeypatch):
    with Log(tmp_path) as log:
        log.write(ENTRY)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
        log.write(ENTRY)
    assert capsys.readouterr().err == "align: step 3, 25%, loss 1.250  1,235 tokens/s  1:01:40 left\n"


def test_a_terminal_gets_a_bar_for_each_stage(tmp_path):
    with Log(tmp_path) as log:
        pass
    log = Log(tmp_path)
    log.console = Console(force_terminal=True, width=100, record=True)
    with log:
        log.write(ENTRY)
        log.write(replace(ENTRY, stage="[tune]", done=1.0))
        assert [task.description for task in log.bar.tasks] == ["align", "[tune]"]
    told = log.console.export_text()
    assert "loss 1.250" in told and "[tune]" in told


def test_other_processes_are_silent(tmp_path, capsys):
    with Log(tmp_path / "run", silent=True) as log:
        log.write(ENTRY)
        log.say("hello")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Log(tmp_path, tensorboard=True) as log:
        log.write(ENTRY)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 1.25)]


def test_a_run_that_goes_on_in_the_last_step_of_a_stage_writes_its_entry_once(world, tmp_path):
    made = world.model()
    stages = (Stage(name="one", steps=3, train=("connector",)), Stage(name="two", steps=1, train=("connector",)))
    config = TrainingConfig(stages=stages, log_every=2, checkpoint_minutes=0.0, keep=99)
    told = {"config": config, "collate": world.collate(made), "out": tmp_path}
    train(made, world.data, **told)
    before = [(row["step"], row["stage"], row["loss"]) for row in rows(tmp_path)]
    assert [step for step, *_ in before] == [2, 3, 4]
    for place in sorted((tmp_path / "checkpoints").iterdir())[3:]:  # step 3 of the first stage is the last one now
        shutil.rmtree(place)
    train(made, world.data, **told)
    assert [(row["step"], row["stage"], row["loss"]) for row in rows(tmp_path)] == before


def test_what_is_written_again_is_purged_from_the_board_and_nothing_before_it(tmp_path, monkeypatch):
    from torch.utils import tensorboard as board

    purged = []
    monkeypatch.setattr(board, "SummaryWriter", lambda folder, purge_step: purged.append(purge_step))
    Log(tmp_path, from_step=2, tensorboard=True).__exit__(None, None, None)
    assert purged == [3]
