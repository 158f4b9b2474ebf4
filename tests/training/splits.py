"""Trainings whose layers processes split, and the same ones whole; `test_splitting` compares what comes of them."""

import copy
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from foveal.core.types import IGNORE, Batch, Layout, VisualTokens
from foveal.models import causal, masked
from foveal.models.config import ModelConfig
from foveal.training.config import Lora, Stage, Then, TrainingConfig
from foveal.training.ledger import Steps
from foveal.training.ledger import held as counted
from foveal.training.loop import train
from foveal.training.parts import optimizer
from foveal.training.processes import accelerator, part, team
from foveal.training.sharing import shared_out
from foveal.training.step import Scored, prepared
from tests.training.conftest import built

ALL = ("vision", "connector", "language", "fusion")
STAGE = Stage(steps=3, train=ALL[:3], batch_size=2, rate=1e-3)
LATENTS = {"name": "perceiver", "latents": 4, "depth": 1, "heads": 2, "head_width": 8}
GATED = {"name": "gated_cross_attention", "every": 1, "heads": 2, "head_width": 8, "start": 0.5}
CASES = {
    "grouped heads, normed by one gain": ({"kv_heads": 2, "qk_norm": True, "qkv_bias": True}, STAGE),
    "heads normed by their own": ({"qk_norm": "own", "norm_after": True, "mlp_bias": True}, STAGE),
    "biases, several batches a step": ({"language": {"name": "opt"}}, replace(STAGE, accumulate=2)),
    "masks of each head": ({"language": {"name": "gpt", "steepest": 8.0}}, STAGE),
    "heads under one norm": ({"language": {"name": "gpt", "steepest": 8.0, "qk_norm": True}}, STAGE),
    "looks at pictures": ({"connector": LATENTS, "fusion": GATED}, replace(STAGE, train=ALL)),
    "levels": ({"vision": {"levels": [0], "depth": 2}, "fusion": {"name": "deepstack", "after": [0]}}, STAGE),
    "asked for its attention": (
        {"depth": 2, "fusion": {"name": "dense_sparse", "keep": [1, 0.5], "layers": [1], "by": "attention"}},
        STAGE,
    ),
    "asked for one head": (
        {"kv_heads": 2, "depth": 2},
        replace(STAGE, objective={"name": "joint", "match": 0.5, "cells": 0.1}),
    ),
    "an odd inner width": ({"inner": 33}, STAGE),
    "half precision, computed again": (
        {"kv_heads": 2, "qk_norm": True},
        replace(STAGE, precision="bf16", checkpointing=True),
    ),
    "orthogonal steps": ({"kv_heads": 2}, replace(STAGE, optimizer="muon")),
}
ADAPTED = [
    replace(STAGE, name="a", train=("connector",), lora=Lora(rank=2, targets=("query", "value", "out", "up", "down"))),
    replace(STAGE, name="b", train=("connector",), then=(Then(at=0.5, train=ALL[1:3]),)),
]


def made(world, *, vision=None, connector="linear", fusion=None, language=None, **decoder):
    """A small model that writes, of these parts."""
    torch.manual_seed(0)
    vit = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16, "layers": [-1]}
    words = {"vocabulary": len(world.processor.tokenizer), "width": 16, "depth": 1, "heads": 4, "inner": 32}
    parts = {
        "vision": vit | (vision or {}),
        "connector": connector,
        "language": {"name": "decoder", "deviation": 0.2, **words, **(language or {}), **decoder},
        "head": {"name": "language_model", "tied": True},
    }
    return causal.assemble(ModelConfig.parse(parts | ({"fusion": fusion} if fusion else {})))


def encoder():
    """A small encoder of words and regions, whose layers norm sums."""
    torch.manual_seed(0)
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2, "deviation": 0.2}
    parts = {"assembly": "masked", "fusion": "single_stream", "features": 6, "language": language}
    return masked.assemble(ModelConfig.parse({**parts, "heads": {"words": "masked_language"}}))


def hidden(groups, place=0):
    """A row of hidden words for each group, of its place."""
    chance = torch.Generator().manual_seed(place)
    ids = torch.randint(1, 9, (len(groups), 6), generator=chance)
    slots = torch.full_like(ids, -1)
    slots[:, 4:] = torch.arange(2 * len(ids)).view(-1, 2)
    labels = torch.where(torch.arange(6) < 2, ids, IGNORE)
    layout = Layout(counts=(2,) * len(ids), grids=(None,) * len(ids))
    visual = VisualTokens.on_layout(torch.randn(2 * len(ids), 6, generator=chance), layout)
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, labels=labels, visual=visual)


def run(world, out, model, stages, collate, **sharing):
    """One training, with a checkpoint after each step where `keep` is told; its weights, losses and norms."""
    told = {"log_every": 1, "checkpoint_minutes": 0.0 if "keep" in sharing else 60.0, "device": "cpu"}
    config = TrainingConfig(stages=tuple(stages), **told, **sharing)
    train(model, world.data, config=config, collate=collate, out=out)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] if out.exists() else []
    numbers = torch.tensor([[row["loss"], row["gradient_norm"]] for row in rows])
    return {"weights": model.state_dict(), "log": numbers}


def all_of(world, out, **sharing):
    """Every training, each sharing as told."""
    told = {}
    for name, (settings, stage) in CASES.items():
        model = made(world, **settings)
        collate = world.collate(model, cells="one head" in name)
        kept = {"keep": 99} if name.startswith("grouped") else {}
        told[name] = run(world, out / name, model, [stage], collate, **sharing, **kept)
    model = made(world, kv_heads=2)
    told["adapters, then all"] = run(world, out / "adapted", model, ADAPTED, world.collate(model), **sharing)
    stage = replace(STAGE, train=("language", "heads"), objective="masked_words")
    told["norms of sums"] = run(world, out / "sums", encoder(), [stage], lambda stage: hidden, **sharing)
    return told


def held(world, group):
    """A model that a group splits: bytes of a step, numbers that are held, and what is left when it ends."""
    model = made(world, kv_heads=2, qk_norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = world.collate(model)(STAGE)([[one] for one in world.data[:3]])
    expected, process = model(batch).logits.detach(), accelerator("cpu")
    scored = Scored(model, lambda model, batch: (model(batch).logits.square().sum(), 1), precision="fp32", team=group)
    with shared_out(scored, [], process, zero=0) as shares:
        chosen = list(shares.values())
        scored, adam = prepared(process, scored, optimizer(model, chosen, STAGE))
        steps = Steps(accelerator=process, scored=scored, adam=adam, chosen=chosen, clip=1.0)
        every = [vars(counted(steps, batch, waiting=1, accumulate=1)) for _ in range(4)]
        # a message on its way may hold what is done with, now in the forward pass and now in the backward one
        told = min(every, key=lambda one: (one["activations"], one["temporary"]))
        sizes = {name: mine(value).numel() for name, value in model.named_parameters()}
    return {
        "bytes": told,
        "numbers": sizes,
        "same weights": all(torch.equal(value, before[name]) for name, value in model.state_dict().items()),
        "same words": torch.equal(copy.deepcopy(model)(batch).logits, expected),
        "hooks": sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules()),
    }


def mine(value):
    return value.to_local() if isinstance(value, DTensor) else value


def main() -> None:
    """All trainings, into a folder."""
    out, process = Path(sys.argv[1]), accelerator("cpu")
    world = built(out / f"world{process.process_index}")
    told = all_of(world, out, tensor=2)
    told["held"] = held(world, team(process, tensor=2))
    torch.save(told, out / f"told{process.process_index}.pt")
    part()


def four() -> None:
    """One training of two groups of two processes, by each way to share, into a folder."""
    out, process = Path(sys.argv[1]), accelerator("cpu")
    world, told = built(out / f"world{process.process_index}"), {}
    for zero in (0, 2, 3):
        model = made(world, kv_heads=2, qk_norm=True)
        launch = partial(run, world, out / str(zero), model, [STAGE], world.collate(model))
        told[zero] = launch(tensor=2, zero=zero)
    torch.save(told, out / f"told{process.process_index}.pt")
    part()


if __name__ == "__main__":
    four() if sys.argv[2:] else main()
