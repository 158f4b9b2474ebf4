"""How much memory a training takes on each of several devices: bytes in, bytes out."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Literal

from foveal.core.errors import InputError

Zero = Literal[0, 1, 2, 3]
MOST = 1024  # devices that are tried for one that fits


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one device alone holds at the fullest moment of a step, in bytes.

    `layer` is what is whole at a time where weights are shared: the largest layer, and all that is none. `casts` are
    weights in half precision, kept for the backward pass. `batches` are examples that wait or are learned from,
    `activations` what the backward pass keeps of a forward one, and `temporary` is what comes on top. `turns` are bytes
    of gradients whose place is another's until they come, where none are left of a micro-batch before.
    """

    weights: int
    layer: int
    gradients: int
    optimizer: int
    casts: int
    batches: int
    activations: int
    temporary: int
    turns: int = 0

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if value < 0]
        if wrong or self.layer > self.weights or self.turns > self.gradients:
            raise InputError(f"memory of {vars(self)}; give 0 or more, and of a layer and in turns at most the whole")

    @property
    def total(self) -> int:
        """All of it; a layer is within the weights, and `turns` are taken off."""
        return sum(vars(self).values()) - self.layer - 2 * self.turns


def shared(held: Held, *, devices: int = 1, zero: int = 0) -> Held:
    """What each of `devices` holds where they share out by ZeRO (1910.02054): 1 the optimizer's state, 2 gradients
    too, 3 weights too, of which `layer` is there whole and told no more.

    Raises InputError for less than one device, and for another stage than 0 to 3.
    """
    if devices < 1:
        raise InputError(f"{devices} devices; give 1 or more")
    if zero not in (0, 1, 2, 3):
        raise InputError(f"ZeRO {zero}; give 0, 1, 2 or 3")

    def part(number: int, *, since: int) -> int:
        return -(-number // devices) if zero >= since else number

    whole = held.layer if zero == 3 else 0
    return replace(
        held,
        weights=whole + part(held.weights - whole, since=3),
        layer=0,
        gradients=part(held.gradients, since=2),
        optimizer=part(held.optimizer, since=1),
        turns=held.turns if devices == 1 else 0,  # several keep their gradients in the buckets that they send
    )


def waited(pipeline: int, accumulate: int) -> float:
    """How many times as long a step takes in such a pipeline as the work of one process in it, for until the first
    micro-batch has come through, and after the last, some wait (1811.06965)."""
    return 1 + (pipeline - 1) / accumulate


def zero_that_fits(held: Held, limit: int, *, devices: int, zero: int) -> int | None:
    """The lowest higher stage of ZeRO by which so many devices hold at most `limit` bytes each; None: none does."""
    fit = (more for more in range(zero + 1, 4) if shared(held, devices=devices, zero=more).total <= limit)
    return next(fit, None) if devices > 1 else None


def devices_that_fit(held: Held, limit: int, *, devices: int, zero: int) -> int | None:
    """The fewest more devices that hold at most `limit` bytes each; None: not even `MOST` do."""
    many = range(devices + 1, MOST + 1) if zero else range(0)
    place = bisect_left(many, True, key=lambda more: shared(held, devices=more, zero=zero).total <= limit)
    return many[place] if place < len(many) else None  # of two or more, more never hold more
