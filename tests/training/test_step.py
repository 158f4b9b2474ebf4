"""Gradients of one step: divided once, then clipped."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.training.config import Stage, TrainingConfig
from foveal.training.loop import train
from foveal.training.step import Scored, rescale


@pytest.mark.parametrize(("clip", "norm"), [(100.0, 2.5), (1.0, 1.0)])
def test_gradients_are_divided_by_the_count_and_clipped_to_the_norm(clip, norm):
    one, other, idle = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, other.grad = torch.tensor([6.0]), torch.tensor([8.0])
    before = rescale([one, other, idle], divisor=torch.tensor(4.0), clip=clip)
    assert before.item() == pytest.approx(2.5)
    assert torch.cat([one.grad, other.grad]).norm().item() == pytest.approx(norm, rel=1e-5)
    assert (one.grad / other.grad).item() == pytest.approx(0.75)
    assert idle.grad is None


def test_a_step_that_counts_nothing_has_no_gradient():
    one = nn.Parameter(torch.zeros(1))
    one.grad = torch.tensor([0.0])
    assert rescale([one], divisor=torch.tensor(0.0), clip=1.0).item() == 0.0
    assert one.grad.item() == 0.0


def trained(world, out, data, **settings):
    """The losses by step, and the weights, of two epochs over data of which some rows may say nothing."""
    made = world.model()
    wanted = Stage(epochs=2.0, train=("connector", "language"), rate=1e-2, **settings)
    config = TrainingConfig(stages=(wanted,), log_every=1, checkpoint_minutes=0.0, keep=99)
    result = train(made, data, config=config, collate=world.collate(made), out=out)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return result.steps, {row["step"]: row["loss"] for row in rows}, made.state_dict()


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 1, "accumulate": 2}])
def test_a_step_that_counts_nothing_is_passed_over(world, tmp_path, settings):
    mute = [replace(one, messages=one.messages[:1]) if i % 2 else one for i, one in enumerate(world.data[:8])]
    steps, losses, whole = trained(world, tmp_path / "whole", mute, **settings)
    assert steps == 16 // settings.get("accumulate", 1)
    assert 0 < len(losses) < steps or settings.get("accumulate")
    assert all(loss > 0 for loss in losses.values())
    assert all(bool(tensor.isfinite().all()) for tensor in whole.values())
    places = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    for place in places[4:]:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    again, resumed, weights = trained(world, tmp_path / "whole", mute, **settings)
    assert (again, resumed) == (steps, losses)
    assert all(torch.equal(whole[name], weights[name]) for name in whole)


def test_what_learns_stays_where_a_step_counts_nothing(world, tmp_path):
    mute = [replace(one, messages=one.messages[:1]) for one in world.data[:3]]
    made = world.model()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    ended = []
    config = TrainingConfig(stages=(Stage(steps=3, train=("language",), weight_decay=0.5),), log_every=1)
    with pytest.raises(InputError, match="no token carries a loss, nor does anything else, in 3 steps"):
        train(made, mute, config=config, collate=world.collate(made), out=tmp_path, ended=ended.append)
    assert not ended
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


def test_where_nothing_has_a_gradient_the_norm_is_zero():
    assert rescale([nn.Parameter(torch.zeros(1))], divisor=torch.tensor(4.0), clip=1.0).item() == 0


ONE = torch.ones(())


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (ONE, r"a Tensor of shape \(\) alone"),
        ((ONE,), "a tuple of 1"),
        ((ONE, 1, {}, {}), "a tuple of 4"),
        ((torch.ones(2), 1), r"as its loss a Tensor of shape \(2,\)"),
        ((1.0, 1), "as its loss a float"),
        ((ONE, None), "as its count a NoneType"),
        ((ONE, torch.ones(1)), r"as its count a Tensor of shape \(1,\)"),
        ((ONE, 1, ONE), r"as its parts a Tensor of shape \(\)"),
        ((ONE, 1, {"mine": ONE}), r"as its part 'mine' a Tensor"),
    ],
)
def test_what_an_objective_returns_is_checked(world, told, words):
    def my_loss(model, batch, *, gain=1.0):
        return told

    batch = world.collate(world.model())(Stage(steps=1))([world.data[:1]])
    with pytest.raises(
        InputError, match=f"^the objective 'my_loss' returns {words}.*; let it return the summed loss and "
    ):
        Scored(nn.Identity(), partial(my_loss, gain=2.0), precision="fp32")(batch)


@pytest.mark.parametrize(
    "told", [(ONE, 1), (ONE, ONE), (ONE, 0.5, {}), (ONE, 1, {"mine": (ONE, 1), "own": (0.5, ONE)})]
)
def test_a_sum_with_its_count_is_what_an_objective_returns(world, told):
    batch = world.collate(world.model())(Stage(steps=1))([world.data[:1]])
    assert Scored(nn.Identity(), lambda model, batch: told, precision="fp32")(batch) is told
