"""Trainings in two processes, one by one and as a pipeline; `test_pipeline` compares what comes of them."""

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from foveal.models.budget import budgeted
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.training.config import Lora, Stage, Then, TrainingConfig
from foveal.training.ledger import Ledger, held_by, weights_of
from foveal.training.loop import train
from foveal.training.objective import objective
from foveal.training.parts import learning, optimizer
from foveal.training.pipeline import piped
from foveal.training.processes import accelerator, part, team
from foveal.training.step import Scored, prepared, take
from tests.training.conftest import built
from tests.training.shares import spoken

ALL = ("vision", "connector", "fusion", "language")
FLAMINGO = {"name": "gated_cross_attention", "every": 1, "heads": 2, "head_width": 8, "start": 0.5}
DEEPSTACK = {"name": "deepstack", "after": [0, 1]}
SEVERAL = {"batch_size": 2, "accumulate": 3, "rate": 1e-2, "weight_decay": 0.5}
STAGES = {
    "prefix": [Stage(steps=4, train=ALL, **SEVERAL)],
    "deepstack, pictures now and then": [Stage(steps=4, train=ALL, **SEVERAL | {"batch_size": 1})],
    "flamingo, pictures now and then": [Stage(steps=6, train=ALL, **SEVERAL | {"batch_size": 1, "rate": 2e-3})],
    "queries": [Stage(steps=2, train=ALL[1:], **SEVERAL)],
    "an untied head": [Stage(steps=3, train=("connector", "language.layers.2", "head"), **SEVERAL)],
    "a budget before the layers": [Stage(steps=2, train=ALL, **SEVERAL)],
    "fewer batches than processes": [Stage(steps=3, train=ALL, **SEVERAL | {"accumulate": 1})],
    "orthogonal steps": [Stage(steps=3, train=ALL, **SEVERAL | {"rate": 5e-4}, optimizer="muon")],
    "parts thaw and freeze": [
        Stage(name="a", steps=2, train=("connector",), **SEVERAL),
        Stage(name="b", steps=2, train=("connector",), lora=Lora(rank=2), **SEVERAL),
        Stage(name="c", steps=4, train=ALL, then=(Then(at=0.5, train=ALL[1:]),), **SEVERAL),
    ],
    "half precision, computed again": [Stage(steps=3, train=ALL, **SEVERAL, precision="bf16", checkpointing=True)],
}


def model_of(world, name):
    """A tiny model of three layers, whose images enter as the name says."""
    if name.startswith("flamingo"):
        return world.model(depth=3, fusion=FLAMINGO)
    made = world.model(depth=3)
    if name.startswith("a budget"):
        return budgeted(made, 2)
    if not name.startswith(("deepstack", "queries", "an untied")):
        return made
    torch.manual_seed(0)
    vision = {"vision": {"name": "vit", "width": 8, "depth": 3, "heads": 2, "inner": 16, "patch": 8, "image_size": 16}}
    decoder = {"name": "decoder", "width": 16, "depth": 3, "heads": 2, "inner": 32, "deviation": 0.2}
    decoder["vocabulary"] = made.language.vocabulary
    config = vision | {"connector": "linear", "language": decoder, "head": "language_model"}
    if name == "queries":
        config["connector"] = {"name": "qformer", "queries": 3, "width": 16, "depth": 1, "heads": 2}
    if name.startswith("deepstack"):
        vision["vision"]["levels"] = [0, 1]
        config |= {"fusion": DEEPSTACK, "levels": "linear", "head": {"name": "language_model", "tied": True}}
    return assemble(ModelConfig.parse(config))


def run(world, out, name, pipeline, stages=None):
    """One training; its weights."""
    text = [replace(one, images=(), messages=(spoken(one.messages[0]), one.messages[1])) for one in world.data[:18]]
    data = [*text, *world.data[18:]] if "now and then" in name else world.data
    model = model_of(world, name)
    more = {"log_every": 1, "checkpoint_minutes": 0.0, "keep": 99, "device": "cpu", "pipeline": pipeline}
    config = TrainingConfig(stages=tuple(stages or STAGES[name]), **more)
    train(model, data, config=config, collate=world.collate(model), out=out)
    return model.state_dict()


def cut_short(out, kept):
    """Forget the later checkpoints of a run, so that it goes on from there."""
    for place in sorted((out / "checkpoints").iterdir())[kept:]:
        shutil.rmtree(place)


def held(world, name):
    """Bytes that this process holds in a step of a pipeline, and whether the model is what it was at the end."""
    model, stage = model_of(world, name), Stage(steps=1, train=ALL)
    batch = world.collate(model)(stage)([[one] for one in world.data[:4]])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = accelerator("cpu")
    with learning(model, stage) as chosen:
        scored = Scored(model, objective("next_token"), precision="fp32", team=team(made, pipeline=2))
        with piped(scored, made):
            scored, adam = prepared(made, scored, optimizer(model, chosen, stage))
            told = {"weights": held_by([*weights_of(model)])}
            for group in adam.param_groups:
                group["lr"] = 0.0
            for _ in range(2):  # the optimizer's state is there in the second
                with Ledger(scored.parameters()) as ledger:
                    take(made, scored, chosen, [batch] * 3, clip=1.0, told=())
                    told["most"] = ledger.highest()
                    told["gradients"] = held_by([one.grad for one in chosen])
                adam.step()
                adam.zero_grad()
            told["optimizer"] = held_by(dict(adam.state))
    twin = copy.deepcopy(model)
    same = all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    return {**told, "same": same}


def main() -> None:
    """All trainings, into a folder."""
    out = Path(sys.argv[1])
    rank = accelerator("cpu").process_index
    world = built(out / f"world{rank}")
    told = {"held": {name: held(world, name) for name in ("prefix", "flamingo")}}
    for name in STAGES:
        told[name] = run(world, out / "two" / name, name, 2)
    told["resumed"] = run(world, out / "begun alone", "prefix", 2)
    torch.save(told, out / f"told{rank}.pt")
    part()


if __name__ == "__main__":
    main()
