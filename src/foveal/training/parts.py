"""Which parts of a model learn in a stage, and how: freezing, learning rates, recomputed activations."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from foveal.core.errors import InputError, unknown
from foveal.layers.speaking import Speaking
from foveal.training.config import Stage
from foveal.training.muon import Muon

_MATRICES = {"muon": (2,), "muon_kernels": (2, 4)}  # dimensions of what takes orthogonal steps


def within(name: str, prefix: str) -> bool:
    """Whether a dotted name lies in a part: `language.layers.1.mlp` lies in `language.layers.1`."""
    return name == prefix or name.startswith(prefix + ".")


def select(model: nn.Module, prefixes: Iterable[str]) -> set[nn.Parameter]:
    """The parameters of these parts (a tied one under any of its names); raises InputError for a part that is none."""
    named = list(model.named_parameters(remove_duplicate=False))
    chosen: set[nn.Parameter] = set()
    for prefix in prefixes:
        found = {parameter for name, parameter in named if within(name, prefix)}
        if not found and not any(within(name, prefix) for name, _ in model.named_modules()):
            raise unknown("part of the model", prefix, _parts(name for name, _ in named))
        chosen |= found
    return chosen


def check(model: nn.Module, stage: Stage) -> None:
    """Raises InputError for a part or a rate of a stage that is none, and for the rate of a part that never learns."""
    named = select(model, stage.parts)
    for part in stage.rates:
        adapts = any("lora_" in name for name, _ in model.named_parameters() if within(name, part))
        mine = select(model, [part])
        if adapts or any(parameter.requires_grad for parameter in named & mine):
            continue
        if named & mine:
            raise InputError(
                f"stage {stage.name!r} has a rate for {part}, which its component keeps frozen; leave rates.{part} out"
            )
        raise InputError(
            f"stage {stage.name!r} has a rate for {part}, of which nothing learns: it trains "
            f"{', '.join(stage.parts) or 'its adapters alone'}; leave rates.{part} out, or add it to 'train'"
        )


def _parts(names: Iterable[str]) -> set[str]:
    """Every beginning of every name, at its dots."""
    parts: set[str] = set()
    for name in names:
        pieces = name.split(".")
        parts |= {".".join(pieces[: i + 1]) for i in range(len(pieces))}
    return parts


@contextmanager
def learning(model: nn.Module, stage: Stage) -> Iterator[list[nn.Parameter]]:
    """Only the stage's parts (and adapters) learn and are in training mode; what was is restored at the end.

    What its component has frozen for good stays so. Raises InputError where nothing is left to learn.
    """
    wished = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    named = select(model, stage.train)
    chosen = [p for name, p in model.named_parameters() if wished[p] and (p in named or "lora_" in name)]
    if not chosen:
        raise InputError(f"stage {stage.name!r} trains {', '.join(stage.train)}, and all of it is frozen; name others")
    model.requires_grad_(False).eval()
    for parameter in chosen:
        parameter.requires_grad_(True)
    for name, module in model.named_modules():
        if "lora_" in name or name in stage.train:
            module.train()
    try:
        yield chosen
    finally:
        for parameter, learns in wished.items():
            parameter.requires_grad_(learns)
            parameter.grad = None
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def recomputed(layers: Iterable[nn.Module], *, wanted: bool) -> Iterator[None]:
    """Activations of these layers are computed again in the backward pass instead of kept (1604.06174)."""
    found = list(layers) if wanted else []
    wrapped = [(layer, "forward") for layer in found]
    wrapped += [(layer, "only") for layer in found if hasattr(layer, "only") and not isinstance(layer, Speaking)]
    for layer, way in wrapped:  # an instance's own, over its class's
        setattr(layer, way, partial(checkpoint, getattr(layer, way), use_reentrant=False))
    try:
        yield
    finally:
        for layer, way in wrapped:
            delattr(layer, way)


def rate_of(*names: str, rate: float, rates: Mapping[str, float]) -> float:
    """The learning rate of a parameter: that of the longest part that it lies in, under any of its names."""
    parts = [prefix for prefix in rates if any(within(name, prefix) for name in names)]
    return rates[max(parts, key=len)] if parts else rate


def optimizer(model: nn.Module, chosen: Collection[nn.Parameter], stage: Stage) -> torch.optim.Optimizer:
    """The stage's optimizer with one group for each rate, decay and kind; a group's `peak` is its rate at its height.

    Weight decay is for matrices: gains, biases and embeddings go without.
    """
    select(model, stage.rates)  # names of parts that are none are refused
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    outer = embeddings | select(model, ["head"] if hasattr(model, "head") else [])
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    learns = set(chosen)
    for parameter in model.parameters():
        if parameter in learns:
            rate = rate_of(*names[parameter], rate=stage.rate, rates=stage.rates)
            decay = stage.weight_decay if parameter.ndim >= 2 and parameter not in embeddings else 0.0
            matrix = parameter.ndim in _MATRICES.get(stage.optimizer, ()) and parameter not in outer
            groups.setdefault((rate, decay, matrix), []).append(parameter)
    described = [
        {"params": group, "lr": rate, "peak": rate, "weight_decay": decay, **({"matrix": True} if matrix else {})}
        for (rate, decay, matrix), group in groups.items()
    ]
    if stage.optimizer in _MATRICES:
        return Muon(described, lr=stage.rate, betas=stage.betas)
    return torch.optim.AdamW(described, lr=stage.rate, betas=stage.betas, fused=True)


def carried(before: Mapping[nn.Parameter, Any], now: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer `now` with the state that another had for the parameters that go on learning."""
    for group in now.param_groups:
        for parameter in group["params"]:
            if parameter in before:
                now.state[parameter] = before[parameter]
    return now
