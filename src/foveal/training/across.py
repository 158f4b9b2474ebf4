"""Objectives that compare the rows of a whole step: exact over any split of it (gradient caching, 2101.06983)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.types import Batch
from foveal.training.processes import Team

Compared = tuple[Tensor, float | int, Mapping[str, tuple[Tensor, int]]]


@dataclass(frozen=True, kw_only=True)
class Across:
    """An objective in two parts: what the model makes of each row alone, and the loss of all rows together.

    `embed(model, batch, **settings)` gives vectors `[B ... K]` and keys `[B N]` that need no gradient (other batches'
    keys are moved apart where they are counted: `counted` names these columns); `compare(vectors, keys)` has no
    parameters of its own, so that the vectors' gradient is all that the model needs to know of the other rows.
    `beside(model, batch, *embedded, **settings)` is what each batch adds by itself; it is handed all that `embed`
    gives, which may be more than the two.
    """

    embed: Callable[..., tuple[Any, ...]]
    compare: Callable[[Float[Tensor, "B *more"], Int[Tensor, "B N"]], Compared]
    counted: tuple[int, ...] = ()
    beside: Callable[..., Compared] | None = None

    def __call__(self, model: nn.Module, batch: Batch, **settings: Any) -> Compared:
        """The loss of one batch by itself."""
        embedded = self.embed(model, batch, **settings)
        vectors, keys, *_ = embedded
        return added(self.compare(vectors, keys), self.alone(model, batch, embedded, settings))

    def alone(
        self, model: nn.Module, batch: Batch, embedded: tuple[Any, ...], settings: Mapping[str, Any]
    ) -> Compared | None:
        """What one batch adds by itself, by what was `embedded` of its rows."""
        return None if self.beside is None else self.beside(model, batch, *embedded, **settings)

    def joined(self, told: Sequence[tuple[Tensor, Tensor]]) -> tuple[Float[Tensor, "B *more"], Int[Tensor, "B N"]]:
        """Vectors and keys of several batches, end to end."""
        moved, begin = [], 0
        for _, keys in told:
            own = keys.clone()
            own[:, list(self.counted)] += begin
            begin = int(own[:, list(self.counted)].max()) + 1 if self.counted and own.numel() else begin
            moved.append(own)
        return torch.cat([vectors for vectors, _ in told]), torch.cat(moved)


def added(one: Compared, other: Compared | None) -> Compared:
    """Two losses as one: their sums, their counts, and the parts of both."""
    if other is None:
        return one
    return one[0] + other[0], one[1] + other[1], {**one[2], **other[2]}


def pulls(across: Across, told: Sequence[tuple[Tensor, Tensor]], team: Team) -> tuple[list[Tensor], Compared]:
    """How the loss of all rows of all processes pulls at the vectors of each of these batches, and that loss."""
    vectors, keys = across.joined(told)
    sizes = [len(some) for some, _ in told]
    first = 0
    if team.groups > 1:
        every = gather_object([(vectors.cpu(), keys.cpu())])[:: team.tensor]
        first = sum(len(some) for some, _ in every[: team.group])
        vectors, keys = (part.to(vectors.device) for part in across.joined(every))
    vectors.requires_grad_()
    with torch.enable_grad():
        loss, count, parts = across.compare(vectors, keys)
    (pull,) = torch.autograd.grad(loss, vectors)
    return list(pull[first : first + sum(sizes)].split(sizes)), (loss.detach(), count, parts)
