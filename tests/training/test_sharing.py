"""Processes that hold a share of a model each learn what those learn that hold all of it."""

import json

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Stage, TrainingConfig
from foveal.training.loop import train
from tests.launcher import two_processes
from tests.training.shares import STAGES


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What two processes told, and the folder of their trainings."""
    out = tmp_path_factory.mktemp("shares")
    two_processes(str(out), module="tests.training.shares")
    return [torch.load(out / f"told{rank}.pt") for rank in range(2)], out


def losses(place):
    return torch.tensor([json.loads(line)["loss"] for line in (place / "log.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("zero", [2, 3])
def test_shares_come_to_the_weights_of_whole_models(told, name, zero):
    processes, out = told
    rough = name.startswith("half")
    bounds = {"rtol": 1e-2, "atol": 2e-2} if rough else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(losses(out / name / str(zero)), losses(out / name / "0"), **bounds)
    for one in processes:
        for key, value in one[name][0].items():
            torch.testing.assert_close(
                one[name][zero][key], value, **bounds, msg=lambda text, key=key: f"{key}: {text}"
            )
            assert torch.equal(one[name][zero][key], processes[0][name][zero][key])


def test_a_run_goes_on_from_shares_of_another_kind(told):
    for one in told[0]:
        for key, value in one["resumed"]["whole"].items():
            torch.testing.assert_close(one["resumed"]["again"][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero", [2, 3])
def test_each_process_holds_its_share_and_gives_all_back(told, zero):
    shares = [one["held"][zero] for one in told[0]]
    everything = shares[0]["all"]
    for learns in (True, False):
        held = [one["held"][learns] for one in shares]
        if learns or zero == 3:
            assert sum(held) == everything[learns] and max(held) < 0.6 * everything[learns]
        else:
            assert held == [everything[learns]] * 2, "what is frozen stays whole"
    assert all(one["largest share of a gradient"] < 0.8 for one in shares), "of two micro-batches, each sent at once"
    assert all(one[what] for one in shares for what in ("same weights", "same words", "same classes"))


def test_an_objective_that_takes_slopes_of_its_own_is_refused(world, tmp_path):
    model = world.model()
    config = TrainingConfig(stages=(Stage(steps=1, objective="evidence"),), zero=3, device="cpu")
    with pytest.raises(InputError, match=r"takes slopes within its pass, .* training\.zero=0"):
        train(model, world.data, config=config, collate=world.collate(model), out=tmp_path)
