"""A model whose layers lie in two processes learns what it learns in one."""

import json
import shutil

import pytest
import torch

from foveal.training.config import Stage
from foveal.training.ledger import Steps, held_in_rows
from foveal.training.objective import objective
from foveal.training.parts import learning, optimizer
from foveal.training.plan import shared
from foveal.training.processes import accelerator
from foveal.training.sections import sections
from foveal.training.step import Scored
from tests.launcher import two_processes
from tests.training.rows import ALL, STAGES, cut_short, model_of, run


@pytest.fixture(scope="module")
def told(world, tmp_path_factory):
    """What a pipeline of two processes told, the folder of its trainings, and what one process comes to."""
    out = tmp_path_factory.mktemp("rows")
    alone = {name: run(world, out / "one" / name, name, 1) for name in STAGES}
    shutil.copytree(out / "one" / "prefix", out / "begun alone")
    cut_short(out / "begun alone", 2)
    two_processes(str(out), module="tests.training.rows")
    return [torch.load(out / f"told{rank}.pt") for rank in range(2)], out, alone


def log(place, *names):
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    return torch.tensor([[line[name] for name in names] for line in lines])


@pytest.mark.parametrize("name", STAGES)
def test_a_pipeline_comes_to_the_weights_of_one_process(told, name):
    processes, out, alone = told
    bounds = {"rtol": 1e-2, "atol": 2e-2} if name.startswith("half") else {"rtol": 1e-5, "atol": 1e-5}
    one, two = (log(out / way / name, "loss", "gradient_norm", "learning_rate") for way in ("one", "two"))
    torch.testing.assert_close(two, one, **bounds)
    for key, value in alone[name].items():
        torch.testing.assert_close(processes[0][name][key], value, **bounds, msg=lambda text, key=key: f"{key}: {text}")
        assert torch.equal(processes[0][name][key], processes[1][name][key])


def test_a_run_goes_on_in_a_pipeline_and_back(told, world):
    processes, out, alone = told
    shutil.copytree(out / "two" / "prefix", out / "begun together")
    cut_short(out / "begun together", 2)
    again = run(world, out / "begun together", "prefix", 1)
    for key, value in alone["prefix"].items():
        torch.testing.assert_close(processes[0]["resumed"][key], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["prefix", "flamingo"])
def test_each_process_holds_its_part_as_it_was_planned(told, world, name):
    model, stage = model_of(world, name), Stage(steps=1, train=ALL)
    rows = sections(model, 2)
    batch = world.collate(model)(stage)([[one] for one in world.data[:4]])
    everything = sum(one.numel() * one.element_size() for one in model.parameters())
    with learning(model, stage) as chosen:
        made = accelerator("cpu")
        scored, adam = made.prepare(
            Scored(model, objective("next_token"), precision="fp32"), optimizer(model, chosen, stage)
        )
        steps = Steps(accelerator=made, scored=scored, adam=adam, chosen=chosen, clip=1.0)
        plan = held_in_rows(steps, rows, batch, waiting=1, accumulate=3)
    for process, planned in zip(told[0], plan, strict=True):
        held = process["held"][name]
        assert held["same"]
        assert held["weights"] == planned.weights < 0.75 * everything
        assert held["gradients"] == planned.gradients and held["optimizer"] == planned.optimizer
        found = held["weights"] + held["optimizer"] + held["most"] + planned.batches
        assert 0.9 < shared(planned).total / found < 1.15
