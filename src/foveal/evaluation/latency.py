"""How long a model takes to its first token, by parts: seeing, choosing what is read, and reading it."""

import copy
import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar

import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.budget import allocator_of
from foveal.models.tiles import choosable, stood

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """Seconds of the encoder and the connector, of the scorer and the allocator, and of the prefill; and bytes held.

    What a strategy chooses between the layers of the language model is in the prefill.
    """

    encoder: float
    scorer: float
    prefill: float
    held: int

    @property
    def total(self) -> float:
        """Seconds to the first token."""
        return self.encoder + self.scorer + self.prefill


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Medians over rounds; `faster` is that of the paired ratios to the first side, `share` the scorer's of all."""

    encoder: float
    scorer: float
    prefill: float
    total: float
    faster: float
    share: float
    held: int


@torch.no_grad()
def first_token(model: Any, batch: Batch, *, clock: Callable[[], float] | None = None) -> FirstToken:
    """Ask a model for one token. `clock` tells seconds; by default those of this process alone.

    On an accelerator those are seconds by the clock, each time when all that it was given is done.

    Where a picture is cut into tiles, the scorer's glance at its view says which of them are encoded, and where queries
    are led, its gaze leads them: both are counted as the scorer's. Raises InputError for a batch without pictures.
    """
    if batch.visual is None:
        raise InputError("a first token is timed of a batch with pictures, and this one holds none; show it some")
    clock = clock or clock_of(batch.input_ids.device)
    spender: Any = allocator_of(model)
    cache = model.language.cache(*batch.input_ids.shape)
    spender, glances = _watched(spender, clock)
    times = [clock()]
    whole, before = (model.whole(batch), None) if spender is None else choosable(model, batch, spender)
    times.append(clock())
    left = whole if spender is None or before is None else stood(spender.between(whole, model.query(batch)), before)
    times.append(clock())
    model(replace(batch, seen=left), cache=cache, keep="last")
    times.append(clock())
    encoder, scorer, prefill = (end - start for start, end in pairwise(times))
    glanced = sum(glances)
    return FirstToken(encoder=encoder - glanced, scorer=scorer + glanced, prefill=prefill, held=cache.size)


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells the seconds that work on a device takes."""
    if device.type == "cpu":
        return time.process_time

    def clock() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def _watched(spender: Any, clock: Callable[[], float]) -> tuple[Any, list[float]]:
    """The same one, and how long each of its glances and gazes takes."""
    taken: list[float] = []
    if spender is None:
        return spender, taken
    watched = copy.copy(spender)

    def timed(look: Callable[..., Any]) -> Callable[..., Any]:
        def looking(*given: Any) -> Any:
            start = clock()
            told = look(*given)
            taken.append(clock() - start)
            return told

        return looking

    for name in ("glance", "gaze"):
        if hasattr(spender, name):
            watched.__dict__[name] = timed(getattr(spender, name))
    return watched, taken


def turns(sides: Mapping[K, Callable[[], M]], *, rounds: int) -> list[dict[K, M]]:
    """What every side says in turn, so many rounds after a first that is not counted; InputError for no rounds.

    Garbage is collected between the rounds, so that none of the sides waits for it.
    """
    if rounds < 1:
        raise InputError(f"{rounds} rounds of measuring; give 1 or more")
    collects, taken = gc.isenabled(), list[dict[K, M]]()
    gc.disable()
    try:
        for _ in range(rounds + 1):
            gc.collect()
            taken.append({name: side() for name, side in sides.items()})
    finally:
        if collects:
            gc.enable()
    return taken[1:]


def alternating(sides: Mapping[K, Callable[[], FirstToken]], *, rounds: int) -> dict[K, Latency]:
    """How long every side takes to its first token, all in turn; takes the errors of `turns`."""
    taken = turns(sides, rounds=rounds)
    first = next(iter(sides))
    return {name: _medians([one[name] for one in taken], [one[first] for one in taken]) for name in sides}


def _medians(ours: list[FirstToken], first: list[FirstToken]) -> Latency:
    return Latency(
        **{name: median(getattr(one, name) for one in ours) for name in ("encoder", "scorer", "prefill", "total")},
        faster=median(whole.total / one.total for whole, one in zip(first, ours, strict=True)),
        share=median(one.scorer / one.total for one in ours),
        held=ours[0].held,
    )
