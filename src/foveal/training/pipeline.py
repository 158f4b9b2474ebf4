"""A model whose layers lie in several processes, one after the other, through which a step's micro-batches go."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from foveal.core.errors import InputError
from foveal.core.types import Batch, Output, Stream
from foveal.training.relay import Carried, Link, relay
from foveal.training.sections import holders, sections
from foveal.training.sharing import Shares, alike

_LAID = ("input_ids", "image_slot", "labels", "positions")  # of a batch, what its images may lay out anew
_SAID = ("hidden", "memory", "memory_mask", "memory_seen")  # of a stream, what is not known from the batch
_ASKED = ("visual", "worth", "whole")  # what a fusion asks of images between the layers

Score = Callable[[nn.Module, Batch], Tensor]  # what is to be small of a micro-batch, by who speaks of it


class Pipeline:
    """What one process does of a step: its own layers, for each micro-batch in turn.

    `rows` are the layers of the processes of a pipeline, and `held` says which of these hold each weight. Process r of
    all stands at place r modulo their number; those at one place of several pipelines hold the same.
    """

    def __init__(
        self, scored: Any, rows: Sequence[range], held: Mapping[Tensor, tuple[int, ...]], accelerator: Accelerator
    ) -> None:
        self.model, self.team, self.rows, self.held = scored.model, scored.team, rows, held
        self.length, self.world, self.rank = len(rows), accelerator.num_processes, accelerator.process_index
        self.place, self.device = self.rank % self.length, accelerator.device
        self.learned = [one for one in held if isinstance(one, nn.Parameter) and one.requires_grad]
        firsts = range(0, self.world, self.length)
        pipelines = [_group(tuple(range(first, first + self.length))) for first in firsts]
        self.pipeline = pipelines[self.team.group]
        self.alike = {  # all that hold the same
            places: _group(tuple(first + place for first in firsts for place in places))
            for places in sorted(set(held.values()))
        }
        self.link = Link(
            before=self.rank - 1 if self.place else None,
            after=self.rank + 1 if self.place + 1 < self.length else None,
            following=self.length - self.place - 1,
            device=self.device,
            words=_group(tuple(range(self.world)), "gloo"),
        )

    def holds(self, weight: Tensor) -> bool:
        """Whether this process has a weight; what is new since lies in the first."""
        return self.place in self.held.get(weight, (0,))

    def learn(
        self, batches: Sequence[Batch], score: Score, precise: Callable[[Batch], AbstractContextManager[Any]]
    ) -> None:
        """Gradients of what is small of all micro-batches, which every process of a pipeline is given."""

        def forward(number: int, carried: Carried) -> Carried:
            with precise(batches[number]):
                return passed(self.model, self.rows, self.place, batches[number], carried, score)

        relay(self.link, len(batches), forward)

    def settle(self) -> None:
        """After a step's last backward: each holder of a weight has the sum of its gradients in a pipeline, the mean
        over pipelines; none where none is."""
        used = torch.tensor([float(one.grad is not None) for one in self.learned], device=self.device)
        dist.all_reduce(used)
        for parameter, count in zip(self.learned, used.tolist(), strict=True):
            group = self.alike[self.held[parameter]]
            if not count:
                parameter.grad = None
            elif self.holds(parameter) and group is not None:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad, group=group)
                parameter.grad /= self.team.groups

    def norm(self) -> Tensor:
        """The norm of all gradients of a pipeline, each of which its owner counts."""
        own = [one.grad for one in self.learned if self.held[one][0] == self.place and one.grad is not None]
        square = get_total_norm(own).to(self.device).square()
        dist.all_reduce(square, group=self.pipeline)
        return square.sqrt()

    def collected(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the processes of the first pipeline have under these names, in its first on the processor; all ask."""
        told = gather_object([{name: (tuple(one.shape), str(one.dtype)) for name, one in named.items()}])
        found: dict[str, Tensor] = {}
        first_of = {name: place for place in reversed(range(self.length)) for name in told[place]}
        for name, place in sorted(first_of.items()):
            if self.rank == place:
                mine = named[name].detach()
                if place:
                    dist.send(mine.to(self.device).contiguous(), 0)
                else:
                    found[name] = mine.cpu()
            elif self.rank == 0:
                shape, kind = told[place][name]
                room = torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")), device=self.device)
                dist.recv(room, place)
                found[name] = room.cpu()
        return found


def passed(
    model: Any, rows: Sequence[range], place: int, batch: Batch, carried: Carried, score: Score
) -> dict[str, Tensor]:
    """What the process at a place says of a batch, out of what the one before said; the last of all its loss."""
    if place:
        laid, stream = unpacked(model, batch, carried)
    else:
        laid, stream, _ = model.entered(batch)
    if place + 1 == len(rows):
        return {"loss": score(_Rest(partial(model.spoken, stream, begin=rows[place].start)), laid)}
    return packed(batch, laid, model.passed(stream, rows[place]))


class _Rest(nn.Module):
    """What a model says from some layer on, called as the model is."""

    def __init__(self, speak: Callable[..., Output]) -> None:
        super().__init__()
        self.speak = speak

    def forward(self, batch: Batch, **asked: Any) -> Output:
        return self.speak(batch, **asked)


def packed(batch: Batch, laid: Batch, stream: Stream) -> dict[str, Tensor]:
    """What the next process has to be told of a batch that its images have `laid` out, and of its stream.

    Raises InputError for a fusion that asks images between the layers.
    """
    if asked := [name for name in _ASKED if getattr(stream, name) is not None]:
        raise InputError(
            f"the fusion keeps {asked[0]!r} in the stream, which stays in one process; train with training.pipeline=1"
        )
    said = {f"batch.{name}": getattr(laid, name) for name in _LAID if getattr(laid, name) is not getattr(batch, name)}
    said |= {name: made for name in _SAID if (made := getattr(stream, name)) is not None}
    return said | {f"levels.{number}": level for number, level in enumerate(stream.levels)}


def unpacked(model: Any, batch: Batch, carried: Carried) -> tuple[Batch, Stream]:
    """The batch and its stream as the process before had them; what words alone say of it is made anew."""
    parts = {name.removeprefix("batch."): one for name, one in carried.items() if name.startswith("batch.")}
    laid = replace(batch, **parts)
    with torch.no_grad():
        stream = model.language.open(laid)
    levels = tuple(one for name, one in carried.items() if name.startswith("levels."))
    return laid, replace(stream, **{name: carried[name] for name in _SAID if name in carried}, levels=levels)


@contextmanager
def piped(scored: Any, accelerator: Accelerator) -> Iterator[Shares]:
    """A model under its objective in the pipelines of its team, of whose processes each holds its part on its device.

    What a process does not hold is empty. At the end all weights are whole again, on the processor.
    """
    model, plain, device = scored.model, [*scored.parameters()], accelerator.device
    rows = sections(model, scored.team.pipeline)
    held = holders(model, rows)
    alike(plain, accelerator)
    pipeline = Pipeline(scored, rows, held, accelerator)
    shapes = {parameter: parameter.shape for parameter in plain}
    owners = {name: held[buffer][0] for name, buffer in scored.named_buffers()}
    for parameter in plain:
        here = pipeline.holds(parameter) or not parameter.ndim
        room = parameter.new_empty((0, *parameter.shape[1:]), device=device) if not here else None
        parameter.data = parameter.data.to(device) if room is None else room  # as many axes: its kind is told by them
    for buffer in scored.buffers():
        buffer.data = buffer.data.to(device)
    table = model.language.embedding
    if pipeline.place:
        table.forward = partial(_blank, table.weight)
    scored.pipeline = pipeline
    yield {parameter: parameter for parameter in plain}
    vars(table).pop("forward", None)
    for parameter, shape in shapes.items():
        data = parameter.data if parameter.shape == shape else parameter.new_empty(shape)
        dist.broadcast(data, held[parameter][0])
        parameter.data = data.cpu()
    for name, buffer in scored.named_buffers():
        dist.broadcast(buffer, owners[name])
    scored.cpu()


def _blank(weight: Tensor, ids: Tensor) -> Tensor:
    """Words of a table that is elsewhere: what they say comes from the process before."""
    return weight.new_zeros(()).expand(*ids.shape, weight.shape[1])


@cache
def _group(ranks: tuple[int, ...], backend: str | None = None) -> Any:
    """These processes as a group, which all have to ask for; None: one alone."""
    return dist.new_group([*ranks], backend=backend) if len(ranks) > 1 else None
