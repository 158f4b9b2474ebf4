"""Processes that split layers learn what one learns that has all of each."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Lora, Stage, TrainingConfig
from foveal.training.loop import train
from foveal.training.processes import check_groups, one_of
from foveal.training.splitting import told as said
from tests.launcher import processes, two_processes
from tests.training.splits import CASES, STAGE, all_of, held, made, run

NAMES = [*CASES, "adapters, then all", "norms of sums"]
IDLE = ("key.bias", "key_norm.bias")  # added to all keys alike: but for rounding it has no gradient
ROUGH = ("half", "orthogonal")  # begun, and orthogonal steps, are in half precision


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What two processes told that split layers, and their folder."""
    out = tmp_path_factory.mktemp("splits")
    two_processes(str(out), module="tests.training.splits")
    return [torch.load(out / f"told{rank}.pt") for rank in range(2)], out


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """What one process tells of the same trainings."""
    return all_of(world, tmp_path_factory.mktemp("whole"))


def same(one, other, *, rough=False):
    bounds = {"rtol": 1e-2, "atol": 2e-2} if rough else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(one["log"], other["log"], **{**bounds, "rtol": 2e-2 if rough else 1e-4})
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in other["weights"].items():
        if not name.endswith(IDLE):
            torch.testing.assert_close(one["weights"][name], value, **bounds, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", NAMES)
def test_split_layers_come_to_the_weights_of_whole_ones(told, alone, name):
    first, second = (one[name] for one in told[0])
    same(first, alone[name], rough=name.startswith(ROUGH))
    assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())


def test_groups_that_split_layers_take_other_data_and_share_the_rest(world, tmp_path):
    processes(4, str(tmp_path), "four", module="tests.training.splits")
    model = made(world, kv_heads=2, qk_norm=True)
    both = [replace(STAGE, batch_size=2 * STAGE.batch_size)]
    whole = run(world, tmp_path / "whole", model, both, world.collate(model))
    every = [torch.load(tmp_path / f"told{rank}.pt") for rank in range(4)]
    for zero in (0, 2, 3):
        for one in every:
            same(one[zero], whole)
            assert all(
                torch.equal(value, every[0][zero]["weights"][key]) for key, value in one[zero]["weights"].items()
            )


def test_one_process_goes_on_where_two_were(told, world):
    name = NAMES[0]
    settings, stage = CASES[name]
    out = told[1] / name
    for place in sorted((out / "checkpoints").iterdir())[2:]:
        shutil.rmtree(place)
    model = made(world, **settings)
    same(run(world, out, model, [stage], world.collate(model), keep=99), told[0][0][name])


def test_each_process_holds_its_part_and_gives_all_back(told, world):
    shares = [one["held"] for one in told[0]]
    model = made(world, kv_heads=2, qk_norm=True)
    for name, weight in model.named_parameters():
        inside = any(f".{part}." in name for part in ("query", "key", "value", "up", "gate", "down", "out"))
        split = inside and not name.endswith(("out.bias", "down.bias"))
        assert [one["numbers"][name] for one in shares] == [weight.numel() // (2 if split else 1)] * 2, name
    assert all(one["same weights"] and one["same words"] and not one["hooks"] for one in shares)


def test_one_process_by_itself_counts_what_each_of_two_holds(told, world):
    with one_of(2, "cpu") as group:
        assert held(world, group)["bytes"] == told[0][0]["held"]["bytes"]


@pytest.mark.parametrize(
    ("settings", "tensor", "words"),
    [
        ({"kv_heads": 2}, 2, None),
        ({"kv_heads": 2}, 4, "2 of 4 attentions .* the first vision.blocks.0.attention, which has 2 key heads"),
        ({"language": {"name": "gpt", "steepest": 8.0, "qk_norm": True}}, 2, "1 of 4 .* 4 key heads under one norm"),
    ],
)
def test_what_stays_whole_is_said(world, settings, tensor, words):
    line = said(made(world, **settings), tensor)
    assert line is None if words is None else re.search(words, line), line


def test_what_cannot_be_split_is_refused_in_one_line(world, tmp_path):
    with pytest.raises(InputError, match=r"training\.tensor is 7, .* 2 key heads, 16 inner numbers, 4 key heads"):
        said(made(world), 7)
    with pytest.raises(InputError, match=r"training\.tensor is 0; give 1"):
        TrainingConfig(tensor=0)
    assert check_groups(6, tensor=3) == 2
    with pytest.raises(InputError, match=r"training\.tensor is 2, and these are 3 processes; start 2 or a multiple"):
        check_groups(3, tensor=2)
    for stage, words in (
        (Stage(steps=1, objective="evidence"), r"takes slopes within its pass, .* training\.tensor=1"),
        (Stage(steps=1, lora=Lora(dropout=0.1)), r"drops numbers before its adapters, .* lora\.dropout=0"),
        (Stage(steps=1), "and this is one process; start 2"),
    ):
        model, config = made(world), TrainingConfig(stages=(stage,), tensor=2, device="cpu")
        with pytest.raises(InputError, match=words):
            train(model, world.data, config=config, collate=world.collate(model), out=tmp_path)
