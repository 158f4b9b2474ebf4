"""Objectives that compare the rows of a whole step: exact over any split of it (gradient caching, 2101.06983)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.types import Batch

Compared = tuple[Tensor, int, Mapping[str, tuple[Tensor, int]]]


@dataclass(frozen=True, kw_only=True)
class Across:
    """An objective in two parts: what the model makes of each row alone, and the loss of all rows together.

    `embed(model, batch, **settings)` gives vectors `[B ... K]` and keys `[B N]` that need no gradient (other batches'
    keys are moved apart where they are counted: `counted` names these columns); `compare(vectors, keys)` has no
    parameters of its own, so that the vectors' gradient is all that the model needs to know of the other rows.
    """

    embed: Callable[..., tuple[Tensor, Tensor]]
    compare: Callable[[Float[Tensor, "B *more"], Int[Tensor, "B N"]], Compared]
    counted: tuple[int, ...] = ()

    def __call__(self, model: nn.Module, batch: Batch, **settings: Any) -> Compared:
        """The loss of one batch by itself."""
        return self.compare(*self.embed(model, batch, **settings))

    def joined(self, told: Sequence[tuple[Tensor, Tensor]]) -> tuple[Float[Tensor, "B *more"], Int[Tensor, "B N"]]:
        """Vectors and keys of several batches, end to end."""
        moved, begin = [], 0
        for _, keys in told:
            own = keys.clone()
            own[:, list(self.counted)] += begin
            begin = int(own[:, list(self.counted)].max()) + 1 if self.counted and own.numel() else begin
            moved.append(own)
        return torch.cat([vectors for vectors, _ in told]), torch.cat(moved)


def pulls(
    across: Across, told: Sequence[tuple[Tensor, Tensor]], accelerator: Accelerator
) -> tuple[list[Tensor], Compared]:
    """How the loss of all rows of all processes pulls at the vectors of each of these batches, and that loss."""
    vectors, keys = across.joined(told)
    sizes = [len(some) for some, _ in told]
    first = 0
    if accelerator.num_processes > 1:
        every = gather_object([(vectors.cpu(), keys.cpu())])
        first = sum(len(some) for some, _ in every[: accelerator.process_index])
        vectors, keys = (part.to(vectors.device) for part in across.joined(every))
    vectors.requires_grad_()
    with torch.enable_grad():
        loss, count, parts = across.compare(vectors, keys)
    (pull,) = torch.autograd.grad(loss, vectors)
    return list(pull[first : first + sum(sizes)].split(sizes)), (loss.detach(), count, parts)
