"""One optimizer step over several micro-batches and processes, exactly as if they were one batch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from foveal.core.types import Batch

Objective = Callable[[nn.Module, Batch], tuple[Any, ...]]  # sum of loss, count, perhaps named parts of them


class Scored(nn.Module):
    """A model under its objective: the one forward that processes share and precision is chosen for."""

    def __init__(self, model: nn.Module, objective: Objective, *, precision: str) -> None:
        super().__init__()
        self.model, self.objective, self.precision = model, objective, precision

    def forward(self, batch: Batch) -> tuple[Any, ...]:
        """The objective's sum and count for one micro-batch."""
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return self.objective(self.model, batch)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one step found: summed loss and count over all processes, the gradient's norm, and this process's parts.

    `told` is what every process tells all others, summed.
    """

    loss: Tensor
    count: Tensor
    norm: Tensor
    told: Sequence[float] = ()
    parts: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def backward(
    accelerator: Accelerator, scored: nn.Module, batches: Sequence[Batch]
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Gradients of the summed loss of all micro-batches, added up in place; sum, count and named parts of them."""
    loss = count = torch.zeros((), device=accelerator.device)
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for i, batch in enumerate(batches):
        with accelerator.no_sync(scored) if i < len(batches) - 1 else nullcontext():
            total, number, *named = scored(batch)
            accelerator.backward(total)
        loss, count = loss + total.detach(), count + number
        for name, (part, of) in (named[0] if named else {}).items():
            before = parts.get(name, (0.0, 0.0))
            parts[name] = (before[0] + part.detach(), torch.as_tensor(before[1] + of))
    return loss, count, parts


def rescale(parameters: Sequence[nn.Parameter], *, divisor: Tensor, clip: float) -> Tensor:
    """Divide gradients by the step's count, then clip their norm; returns the norm before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients) / divisor
    torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0) / divisor)
    return norm


def take(
    accelerator: Accelerator,
    scored: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[Batch],
    *,
    clip: float,
    told: Sequence[float],
) -> Taken:
    """Gradients of one step's mean loss, ready for the optimizer.

    The loss is summed over micro-batches and processes and divided once by the step's count.
    """
    loss, count, parts = backward(accelerator, scored, batches)
    if accelerator.num_processes > 1:
        mine = torch.cat([torch.stack([loss, count]).double(), torch.tensor(told, device=loss.device).double()])
        loss, count, *rest = accelerator.reduce(mine, reduction="sum")
        told = [float(number) for number in rest]
    # Processes average their gradients, so the mean over the step is their number times that, divided by the count.
    norm = rescale(parameters, divisor=count / accelerator.num_processes, clip=clip)
    return Taken(loss=loss, count=count, norm=norm, told=told, parts=parts)
