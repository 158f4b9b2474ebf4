"""One optimizer step over several micro-batches and processes, as if they were one batch, but for rounding."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.training.across import Across, pulls
from foveal.training.pipeline import Pipeline
from foveal.training.processes import Team
from foveal.training.sharing import Sharing, mine, norm_of

_ALONE = Team()
Objective = Callable[[nn.Module, Batch], tuple[Any, ...]]  # sum of loss, count, perhaps named parts of them


def checked(objective: Objective, told: Any) -> tuple[Any, ...]:
    """What an objective returned; raises InputError where that is no sum with its count, and perhaps named parts."""
    if (wrong := _wrong(told)) is None:
        return told  # type: ignore[no-any-return]
    function = objective.func if isinstance(objective, partial) else objective
    raise InputError(
        f"the objective {getattr(function, '__name__', type(function).__name__)!r} returns {wrong}; let it return the "
        "summed loss and its count, perhaps with named parts of both: (loss, count, {name: (loss, count)})"
    )


def _wrong(told: Any) -> str | None:
    if not isinstance(told, tuple) or not 2 <= len(told) <= 3:
        return f"a tuple of {len(told)}" if isinstance(told, tuple) else f"a {_kind(told)} alone"
    loss, count, *named = told
    if not isinstance(loss, Tensor) or loss.ndim:
        return f"as its loss a {_kind(loss)}"
    if not _number(count):
        return f"as its count a {_kind(count)}"
    for parts in named:
        if not isinstance(parts, Mapping):
            return f"as its parts a {_kind(parts)}"
        for name, part in parts.items():
            if not isinstance(part, tuple) or len(part) != 2 or not all(map(_number, part)):
                return f"as its part {name!r} a {_kind(part)}"
    return None


def _number(value: Any) -> bool:
    return not value.ndim if isinstance(value, Tensor) else isinstance(value, int | float)


def _kind(value: Any) -> str:
    return type(value).__name__ + (f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "")


class Scored(nn.Module):
    """A model under its objective: the one forward that processes share and precision is chosen for."""

    def __init__(self, model: nn.Module, objective: Objective, *, precision: str, team: Team = _ALONE) -> None:
        super().__init__()
        self.model, self.objective, self.precision, self.team = model, objective, precision, team
        self.sharing: Sharing | None = None  # where processes hold a share of the model each
        self.pipeline: Pipeline | None = None  # where they hold some of its layers each

    @property
    def across(self) -> Across | None:
        """The objective, where it compares the rows of a whole step."""
        whole = self.objective.func if isinstance(self.objective, partial) else self.objective
        return whole if isinstance(whole, Across) else None

    def forward(self, batch: Batch, pull: Tensor | None = None) -> tuple[Any, ...]:
        """The objective's sum and count for one micro-batch.

        Of one across batches what has the gradient `pull`, and what this batch adds by itself. Raises InputError for an
        objective that returns something else.
        """
        with self.precise(batch):
            if pull is None:
                return checked(self.objective, self.objective(self.model, batch))
            embedded = self._embedded(batch)
            assert self.across is not None
            alone = self.across.alone(self.model, batch, embedded, self._settings)
            return (embedded[0] * pull).sum(), alone

    def embed(self, batch: Batch) -> tuple[Any, ...]:
        """What an objective across batches is told of one of them: vectors, keys, perhaps more."""
        with self.precise(batch):
            return self._embedded(batch)

    def _embedded(self, batch: Batch) -> tuple[Any, ...]:
        assert self.across is not None
        return self.across.embed(self.model, batch, **self._settings)

    @property
    def _settings(self) -> Mapping[str, Any]:
        return self.objective.keywords if isinstance(self.objective, partial) else {}

    def precise(self, batch: Batch) -> torch.autocast:
        """Within it, what is computed of a batch is of the precision that was chosen."""
        return torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def prepared(accelerator: Accelerator, scored: Scored, adam: Optimizer) -> tuple[nn.Module, Optimizer]:
    """Both as processes train them together, each with all of the model where they hold no shares of it."""
    if scored.sharing is None and scored.pipeline is None:
        return accelerator.prepare(scored, adam)  # type: ignore[no-any-return]
    return scored, accelerator.prepare(adam)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one step found: summed loss and count over all processes, the gradient's norm, and this process's parts.

    `told` is what every process tells all others, summed; `empty` says that nothing was counted in any of them, where
    that is known without waiting for an accelerator.
    """

    loss: Tensor
    count: Tensor
    norm: Tensor
    told: Sequence[float] = ()
    empty: bool = False
    parts: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def backward(accelerator: Accelerator, scored: nn.Module, batches: Sequence[Batch]) -> "Sums":
    """Gradients of the summed loss of all micro-batches, added up in place; sum, count and named parts of them.

    Raises InputError for a batch whose loss nothing that learns has a part in.
    """
    whole = accelerator.unwrap_model(scored)
    if whole.across is not None and (len(batches) > 1 or whole.team.groups > 1):
        return _backward_across(accelerator, scored, batches)
    sums = Sums(accelerator.device)
    if whole.pipeline is not None:
        whole.pipeline.learn(batches, partial(_scored, whole, sums), whole.precise)
        return sums
    for i, batch in enumerate(batches):
        with _unsent(accelerator, scored) if i < len(batches) - 1 else nullcontext():
            told = scored(batch)
            _check_learns(told[0], batch)
            accelerator.backward(told[0])
        sums.add(told)
    return sums


def _scored(whole: Scored, sums: "Sums", model: nn.Module, batch: Batch) -> Tensor:
    """The loss of one micro-batch, by who speaks of it in the place of the model."""
    told = checked(whole.objective, whole.objective(model, batch))
    _check_learns(told[0], batch)
    sums.add(told)
    return told[0]  # type: ignore[no-any-return]


def _unsent(accelerator: Accelerator, scored: nn.Module) -> AbstractContextManager[Any]:
    """Gradients are not sent to the other processes yet; who holds a share of them sends the others at once."""
    return accelerator.no_sync(scored) if accelerator.unwrap_model(scored).sharing is None else nullcontext()


def _check_learns(loss: Tensor, batch: Batch) -> None:
    if not loss.requires_grad:
        raise InputError(
            f"a batch of {len(batch.input_ids)} rows and {len(batch.owner)} images, in whose loss nothing that the "
            "stage trains has a part; train other parts too, take another objective, or give every batch images"
        )


class Sums:
    """What batches add up to: loss, count, and named parts of them."""

    def __init__(self, device: torch.device) -> None:
        self.loss = self.count = torch.zeros((), device=device)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        self.empty = True

    def add(self, told: tuple[Any, ...]) -> None:
        """One more batch, without what its gradient is made of."""
        loss, count, *named = told
        self.loss, self.count = self.loss + loss.detach(), self.count + count
        here = not isinstance(count, Tensor) or count.device.type == "cpu"
        self.empty = self.empty and here and not count  # to read an accelerator's number would be to wait for it
        for name, (part, of) in (named[0] if named else {}).items():
            before = self.parts.get(name, (0.0, 0.0))
            self.parts[name] = (before[0] + torch.as_tensor(part).detach(), torch.as_tensor(before[1] + of))


def _backward_across(accelerator: Accelerator, scored: nn.Module, batches: Sequence[Batch]) -> Sums:
    """The same where rows of different micro-batches and processes are compared: each batch goes through twice.

    Every process finds the loss of all, and tells its share of it, with what its own batches add by themselves.
    """
    whole = accelerator.unwrap_model(scored)
    told = [_vectors(whole, batch) for batch in batches]
    found, (loss, count, parts) = pulls(whole.across, told, whole.team)
    world = float(whole.team.groups)
    sums = Sums(loss.device)
    sums.add((loss / world, count / world, {name: (part / world, of / world) for name, (part, of) in parts.items()}))
    for i, (batch, pull) in enumerate(zip(batches, found, strict=True)):
        with _unsent(accelerator, scored) if i < len(batches) - 1 else nullcontext():
            total, alone = scored(batch, pull)
            accelerator.backward(total if alone is None else total + alone[0])
        if alone is not None:
            sums.add(alone)
    return sums


def _vectors(whole: Scored, batch: Batch) -> tuple[Tensor, Tensor]:
    # not under no_grad, where attention rounds otherwise in half precision: the vectors must be those that learn
    vectors, keys, *_ = whole.embed(batch)
    return vectors.detach(), keys


def rescale(
    parameters: Sequence[nn.Parameter], *, divisor: Tensor, clip: float, pipeline: Pipeline | None = None
) -> Tensor:
    """Divide gradients by the step's count, then clip their norm; returns the norm before clipping.

    Of a step that counts nothing, finite gradients become 0 instead.
    """
    nothing = divisor == 0
    divisor = divisor.masked_fill(nothing, 1.0)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients and pipeline is None:
        return torch.zeros((), device=divisor.device)
    norm = (norm_of(gradients) if pipeline is None else pipeline.norm()) / divisor
    if shares := [mine(gradient) for gradient in gradients]:
        torch._foreach_mul_(shares, ((clip / (norm + 1e-6)).clamp(max=1.0) / divisor).masked_fill(nothing, 0.0))
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
    sums, whole = backward(accelerator, scored, batches), accelerator.unwrap_model(scored)
    for shared in (whole.sharing, whole.pipeline):
        if shared is not None:
            shared.settle()
    loss, count, empty = sums.loss, sums.count, sums.empty
    if accelerator.num_processes > 1:
        once = torch.stack([loss, count]).double() / whole.team.tensor  # all of a group have the same
        mine = torch.cat([once, torch.tensor(told, device=loss.device).double()])
        loss, count, *rest = accelerator.reduce(mine, reduction="sum")
        told, empty = [float(number) for number in rest], not bool(count)
    # Groups average their gradients, so the mean over the step is their number times that, divided by the count.
    norm = rescale(parameters, divisor=count / whole.team.groups, clip=clip, pipeline=whole.pipeline)
    return Taken(loss=loss, count=count, norm=norm, told=told, empty=empty, parts=sums.parts)
