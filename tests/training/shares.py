"""Trainings in several processes, by each way to share what they hold; `test_sharing` compares what comes of them."""

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from foveal.training.config import Lora, Stage, Then, TrainingConfig
from foveal.training.loop import train
from foveal.training.processes import accelerator, part, team
from foveal.training.sharing import shared_out
from foveal.training.step import Scored, backward
from tests.training.conftest import built

ALL = ("vision", "connector", "language")
STAGES = {
    "several batches a step": [Stage(steps=3, train=ALL[1:], batch_size=2, accumulate=2, rate=1e-2)],
    "orthogonal steps": [Stage(steps=3, train=ALL, batch_size=3, rate=1e-2, optimizer="muon", weight_decay=0.1)],
    "pictures now and then": [Stage(steps=8, train=ALL, batch_size=1, rate=1e-2, weight_decay=0.5)],
    "adapters, then all": [
        Stage(name="a", steps=3, train=("connector",), lora=Lora(rank=2), batch_size=3, rate=1e-2),
        Stage(name="b", steps=4, train=("connector",), then=(Then(at=0.5, train=ALL[1:]),), batch_size=3, rate=1e-2),
    ],
    "half precision, computed again": [
        Stage(steps=3, train=ALL[1:], batch_size=3, rate=1e-2, precision="bf16", checkpointing=True)
    ],
}
STAGES["layers asked for their attention, now and then"] = [Stage(steps=6, train=ALL[1:], batch_size=1, rate=1e-2)]
ASKING = {"name": "dense_sparse", "keep": [1, 0.5], "layers": [1], "by": "attention"}
ZERO = (0, 2, 3)


def run(world, out, stages, zero, *, data, **settings):
    """One training; its weights."""
    model = world.model(**settings)
    config = TrainingConfig(stages=tuple(stages), zero=zero, log_every=1, checkpoint_minutes=0.0, keep=99, device="cpu")
    train(model, data, config=config, collate=world.collate(model), out=out)
    return model.state_dict()


def resumed(world, out, *, data):
    """A training whose later half is taken again, from a checkpoint of another way to share; its weights."""
    stages = [Stage(steps=4, train=ALL[1:], batch_size=3, rate=1e-2)]
    whole = run(world, out, stages, 3, data=data)
    if accelerator("cpu").is_main_process:
        for place in sorted((out / "checkpoints").iterdir())[2:]:
            shutil.rmtree(place)
    accelerator("cpu").wait_for_everyone()
    return {"whole": whole, "again": run(world, out, stages, 2, data=data)}


def held(world, zero):
    """Of a model that is shared out: numbers held of what learns and of the rest, and what is left when it ends."""
    model = world.model().requires_grad_(False)
    model.language.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collate = world.collate(model)(Stage(steps=1))
    batch = collate([[one] for one in world.data[:3]])
    told = {"precision": "fp32", "team": team(accelerator("cpu"))}
    scored = Scored(model, lambda model, batch: (model(batch).logits.sum(), 1), **told)
    expected = model(batch).logits.detach()
    with shared_out(scored, list(model.layers), accelerator("cpu"), zero=zero) as shares:
        backward(accelerator("cpu"), scored, [batch, batch])
        whole = max(one.grad.to_local().numel() / one.numel() for one in shares.values() if one.grad is not None)
        sizes = {True: 0, False: 0}
        for parameter in shares.values():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            sizes[parameter.requires_grad] += local.numel()
        scored(batch)
    twin = copy.deepcopy(model)
    return {
        "largest share of a gradient": whole,
        "held": sizes,
        "all": {wanted: sum(p.numel() for p in model.parameters() if p.requires_grad == wanted) for wanted in sizes},
        "same weights": all(torch.equal(value, before[name]) for name, value in model.state_dict().items()),
        "same words": torch.equal(twin(batch).logits, expected),
        "same classes": not any(type(module).__name__.startswith("FSDP") for module in model.modules()),
    }


def main() -> None:
    """All trainings, into a folder."""
    out = Path(sys.argv[1])
    rank = accelerator("cpu").process_index
    world = built(out / f"world{rank}")
    text = [replace(one, images=(), messages=(spoken(one.messages[0]), one.messages[1])) for one in world.data[:18]]
    told = {}
    for name, stages in STAGES.items():
        given = {"data": [*text, *world.data[18:]] if "now and then" in name else world.data}
        given |= {"fusion": ASKING} if "attention" in name else {}
        told[name] = {zero: run(world, out / name / str(zero), stages, zero, **given) for zero in ZERO}
    told["resumed"] = resumed(world, out / "resumed", data=world.data)
    told["held"] = {zero: held(world, zero) for zero in (2, 3)}
    torch.save(told, out / f"told{rank}.pt")
    part()


def spoken(message):
    """A message without its pictures."""
    return {**message, "content": [one for one in message["content"] if one["type"] == "text"]}


if __name__ == "__main__":
    main()
