"""Which process of a pipeline holds what of a model: contiguous layers, and what stands before and after them."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.lookup import spec
from foveal.models.budget import allocator_of
from foveal.training.config import TrainingConfig

_ROOM, _OBJECTIVES = "training.objectives", ("next_token",)


def check(model: Any, training: TrainingConfig, *, processes: int) -> None:
    """Raises InputError for processes that make no such pipelines, and for what has more to tell than a stream."""
    check_recipe(training, processes=processes)
    asked = f"training.pipeline is {training.pipeline}"
    if training.pipeline > 1 and (reason := _refusal(model)) is not None:
        raise InputError(f"{asked}, and {reason}; train it with training.pipeline=1")
    if training.pipeline > 1 and training.pipeline > model.language.depth:
        raise InputError(
            f"{asked}, and the language model has {model.language.depth} layers; give each process one at least"
        )


def check_recipe(training: TrainingConfig, *, processes: int) -> None:
    """The same where the model is not there yet."""
    count = training.pipeline
    if count == 1:
        return
    asked = f"training.pipeline is {count}"
    if processes % count:
        told = "1 process" if processes == 1 else f"{processes} processes"
        raise InputError(
            f"{asked}, and this is a training of {told}; start {count} or a multiple of it, "
            f"as torchrun --nproc-per-node {count} does"
        )
    for name, other, plain in (("zero", training.zero, 0), ("tensor", training.tensor, 1)):
        if other != plain:
            raise InputError(f"{asked} and training.{name} {other}; take one of them, and leave the other out")
    for stage in training.stages:
        name = spec(_ROOM, stage.objective).name
        if name not in _OBJECTIVES:
            raise InputError(
                f"{asked}, and stage {stage.name!r} learns by the objective {name!r}, which asks more of a model than "
                f"what its last layers say; take {_OBJECTIVES[0]}, or training.pipeline=1"
            )


def _refusal(model: Any) -> str | None:
    """What a model has that does not go from process to process; None: nothing."""
    assembly = getattr(getattr(model, "config", None), "assembly", None)
    if assembly != "causal":
        return f"a model of the assembly {assembly} is no row of layers that ends in words"
    name = model.config.part("fusion").name
    if getattr(model.fusion, "thins", False) or getattr(model.fusion, "asks_ahead", False):
        return f"the fusion {name!r} lets visual tokens leave between the layers"
    if hasattr(allocator_of(model), "at_layer"):
        return "the model's allocator lets visual tokens leave between the layers"
    return None


def cut(loads: Sequence[int], count: int, *, first: int = 0, last: int = 0) -> tuple[range, ...]:
    """Layers of these loads in `count` rows of one layer or more, of which the heaviest is as light as can be.

    `first` and `last` are what stands before the first layer and after the last. Raises InputError for fewer layers.
    """
    depth, sums = len(loads), [0, *accumulate(loads)]
    if not 1 <= count <= depth:
        raise InputError(f"{depth} layers for {count} processes of a pipeline; give each one at least")

    def load(row: int, begin: int, end: int) -> int:
        return sums[end] - sums[begin] + first * (row == 0) + last * (row + 1 == count)

    @cache
    def best(row: int, begin: int) -> tuple[int, tuple[int, ...]]:
        """The heaviest of this row and all that follow, and where they end."""
        if row + 1 == count:
            return load(row, begin, depth), (depth,)
        ways = ((end, best(row + 1, end)) for end in range(begin + 1, depth - (count - row - 1) + 1))
        return min((max(load(row, begin, end), rest), (end, *ends)) for end, (rest, ends) in ways)

    ends = best(0, 0)[1]
    return tuple(map(range, (0, *ends), ends))


def sections(model: Any, count: int) -> tuple[range, ...]:
    """The layers of each process, so that what they hold weighs about the same."""
    between = [_block(model, index) for index in range(model.language.depth + 1)]
    layers = [_size([layer, block]) for layer, block in zip(model.language.layers, between, strict=False)]
    outside = {id(one) for one in (model.language, model.fusion, model.head)}
    before = [part for part in model.children() if id(part) not in outside]
    table = getattr(model.language, "embedding", None)
    return cut(layers, count, first=_size([*before, table]), last=_size([model.head, between[-1]]))


def _block(model: Any, index: int) -> nn.Module | None:
    """What the fusion has of its own before this layer."""
    block = getattr(model.fusion, "block", None)
    return None if block is None else block(index)


def _size(parts: Iterable[nn.Module | None]) -> int:
    weights = {parameter for part in parts if part is not None for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in weights)


def holders(model: Any, rows: Sequence[range]) -> dict[Tensor, tuple[int, ...]]:
    """Which processes of a pipeline hold each parameter and change each buffer, the first of them its owner.

    A table that the head shares lies in the first and in the last. What a language model has outside of its layers and
    its table, and what a fusion has that does not say where it is called, lies in all.
    """
    found: dict[Tensor, set[int]] = {}

    def give(part: nn.Module | None, places: Iterable[int]) -> None:
        for weight in () if part is None else (*part.parameters(), *part.buffers()):
            found.setdefault(weight, set()).update(places)

    every, final = range(len(rows)), len(rows) - 1
    place = {index: number for number, row in enumerate(rows) for index in row} | {model.language.depth: final}
    for index, layer in enumerate(model.language.layers):
        give(layer, [place[index]])
    for index, number in place.items():
        give(_block(model, index), [number])
    give(getattr(model.language, "embedding", None), [0])
    give(model.head, [final])
    told = getattr(model.fusion, "early", False) or hasattr(model.fusion, "block")
    within = set(found)
    for part, places in ((model.language, every), (model.fusion, [0] if told else every), (model, [0])):
        for weight in (*part.parameters(), *part.buffers()):
            if weight not in within:
                found.setdefault(weight, set(places))
    return {weight: tuple(sorted(places)) for weight, places in found.items()}
