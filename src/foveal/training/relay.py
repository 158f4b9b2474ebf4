"""Micro-batches through a row of processes, a forward and a backward pass in turn (1F1B, 1806.03377).

Messages go in the order of PyTorch's `Schedule1F1B`. Its stages are not taken: they want one shape for all
micro-batches, as many of these as there are stages, and a gradient of the same things in each. Here texts differ in
length, pictures come and go, and a step may have one micro-batch: so each is announced by what it holds.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Carried = Mapping[str, Tensor]  # what goes from one process to the next, by name
_ROOM = 4096  # bytes of an announcement


@dataclass(kw_only=True)
class Link:
    """Who stands `before` and `after` a process in its row (ranks; None: nobody), and how many after it in all.

    What comes is announced in the group `words`, which talks from processor to processor: no accelerator is waited for.
    """

    before: int | None
    after: int | None
    following: int
    device: torch.device
    words: dist.ProcessGroup
    posted: list[tuple[Any, Any]] = field(default_factory=list)  # what is on its way

    def announce(self, said: Carried) -> None:
        """Tell who comes after what will be sent."""
        if self.after is None:
            return
        kinds = {name: str(one.dtype).removeprefix("torch.") for name, one in said.items()}
        told = [(name, [*one.shape], kinds[name], one.requires_grad) for name, one in said.items()]
        text = json.dumps(told).encode().ljust(_ROOM)
        assert len(text) == _ROOM, f"{len(said)} tensors are more than an announcement holds"
        words = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.posted.append(([dist.isend(words, self.after, group=self.words)], words))

    def awaited(self) -> dict[str, tuple[Tensor, bool]]:
        """Room for what was announced, and whether a gradient goes back."""
        if self.before is None:
            return {}
        words = torch.empty(_ROOM, dtype=torch.uint8)
        dist.recv(words, self.before, group=self.words)
        return {
            name: (torch.empty(shape, dtype=getattr(torch, kind), device=self.device), learns)
            for name, shape, kind, learns in json.loads(bytes(words.tolist()))
        }

    def exchange(self, peer: int | None, sent: Iterable[Tensor], received: Iterable[Tensor] = ()) -> None:
        """Send and receive at once: two that wait for each other never meet. What is sent alone may arrive later."""
        going = [one.detach().contiguous() for one in sent if one.numel()]
        coming = [one for one in received if one.numel()]
        operations = [dist.P2POp(dist.isend, one, peer) for one in going]
        operations += [dist.P2POp(dist.irecv, one, peer) for one in coming]
        if operations:
            self.posted.append((dist.batch_isend_irecv(operations), going))
        if coming:
            self.settle()

    def settle(self) -> None:
        """Wait until all has arrived."""
        for works, _ in self.posted:
            for work in works:
                work.wait()
        self.posted.clear()


def relay(link: Link, count: int, forward: Callable[[int, Carried], Carried]) -> None:
    """Gradients of `count` micro-batches, by whose numbers and by what the process before said `forward` is called.

    It returns what goes on to the next process, and in the last of the row what is to be small.
    """
    waiting: deque[tuple[Carried, Carried]] = deque()
    warm = min(count, link.following + 1)
    unsent: Carried = {}
    for number in range(warm):
        link.exchange(link.after, unsent.values())
        unsent = _forward(link, partial(forward, number), (), waiting)
    for number in range(count):
        received, said = waiting.popleft()
        _backward(link, unsent, said)
        back = [one for one in received.values() if one.requires_grad]
        pulls = [torch.zeros_like(one) if one.grad is None else one.grad for one in back]
        received, said, unsent = {}, {}, {}  # what they hold is free
        if number + warm < count:
            unsent = _forward(link, partial(forward, number + warm), pulls, waiting)
        else:
            link.exchange(link.before, pulls)
    link.settle()


def _forward(
    link: Link, forward: Callable[[Carried], Carried], pulls: Iterable[Tensor], waiting: deque[tuple[Carried, Carried]]
) -> Carried:
    """What is said of one micro-batch; what pulls at an earlier one goes back meanwhile."""
    room = link.awaited()
    link.exchange(link.before, pulls, [one for one, _ in room.values()])
    received = {name: one.requires_grad_(learns) for name, (one, learns) in room.items()}
    said = forward(received)
    link.announce(said)
    waiting.append((received, said))
    return said if link.after is not None else {}


def _backward(link: Link, unsent: Carried, said: Carried) -> None:
    """The gradients of what was said of one micro-batch, by how the process after pulls at it."""
    learns = [one for one in said.values() if one.requires_grad]
    pulls = None
    if link.after is not None:
        pulls = [torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in learns]
        link.exchange(link.after, unsent.values(), pulls)
    if learns:
        torch.autograd.backward(learns, pulls)
