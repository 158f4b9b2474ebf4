"""What ways of answering cost beside each other: all take turns in one run, so that a busy machine is none's fault."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.types import Batch
from foveal.decode.generate import stream
from foveal.evaluation.latency import K, turns

Timed = Mapping[str, float]  # seconds by part


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The median of a part's seconds over rounds, and of their ratios to the first side's in the same round.

    The ratio is None where the first side has no such part, or needs no time for it.
    """

    seconds: float
    ratio: float | None


def in_turns(sides: Mapping[K, Callable[[], Timed]], *, rounds: int) -> dict[K, dict[str, Figure]]:
    """What each side says of its parts, all sides in every round; takes the errors of `turns`."""
    taken = turns(sides, rounds=rounds)
    first = next(iter(sides))

    def figure(side: K, part: str) -> Figure:
        return _figure([one[side][part] for one in taken], [one[first].get(part) for one in taken])

    return {side: {part: figure(side, part) for part in parts} for side, parts in taken[0].items()}


def _figure(ours: list[float], first: list[float | None]) -> Figure:
    ratios = [one / base for one, base in zip(ours, first, strict=True) if base]
    return Figure(seconds=median(ours), ratio=median(ratios) if len(ratios) == len(ours) else None)


@torch.inference_mode()
def written(
    model: Any, batch: Batch, *, new: int, clock: Callable[[], float]
) -> tuple[dict[str, float], Int[Tensor, "B M"]]:
    """How long a model takes for an answer of `new` tokens, to its first one and for each later one; and these tokens.

    Nothing ends it earlier. Takes the errors of `stream`.
    """
    ticks, said = [clock()], []
    for ids in stream(model, batch, max_new_tokens=new):
        ticks.append(clock())
        said.append(ids)
    return paces(ticks), torch.stack(said, dim=1)


def paces(ticks: list[float]) -> dict[str, float]:
    """Seconds to the first token, for each later one (the median; none where there is one token) and for them all."""
    later = [after - before for before, after in pairwise(ticks[1:])]
    each = {"token": median(later)} if later else {}
    return {"first": ticks[1] - ticks[0], **each, "answer": ticks[-1] - ticks[0]}
