"""Batches made ahead of the step that wants them, in an order that any place can resume."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.machine import cores
from foveal.core.types import Batch
from foveal.training.order import Order

# Groups of examples (a group shares its images), and the place of the first in the order: what chance is seeded from.
Collate = Callable[[Sequence[Sequence[Example]], int], Batch]
AHEAD = 3  # micro-batches that wait
_FEWEST, _EACH = 16, 4  # workers that any machine may have, and those to a core: some wait for a disk


@dataclass(frozen=True, kw_only=True)
class Micro:
    """One micro-batch: the batch, how many examples and tokens it holds, and the examples' ids for an alarm."""

    batch: Batch
    examples: int
    tokens: int
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The micro-batches of one process: `at(number)` makes the one of that number; processes take turns."""

    data: Sequence[Example]
    order: Order
    collate: Collate
    batch_size: int
    first: int = 0  # place of the order where micro-batch 0 begins
    rank: int = 0
    world: int = 1

    def __getitem__(self, number: int) -> Micro:
        start = self.first + (number * self.world + self.rank) * self.batch_size
        chosen = [[self.data[i] for i in self.order.at(start + k)] for k in range(self.batch_size)]
        examples = [example for group in chosen for example in group]
        batch = self.collate(chosen, start)
        ids = tuple(str(example.id) for example in examples)
        return Micro(batch=batch, examples=len(examples), tokens=int(batch.valid.sum()), ids=ids)


def check_workers(workers: int) -> None:
    """Raises InputError for more processes than this machine can have busy."""
    most = max(_FEWEST, _EACH * cores())
    if workers > most:
        raise InputError(
            f"training.workers is {workers:,}, and this machine has {cores()} processor cores; give up to {most}"
        )


@contextmanager
def ahead(feed: Feed, *, count: int | None, workers: int) -> Iterator[Iterator[Micro]]:
    """The first `count` micro-batches (None: without end), made by a thread or by `workers` processes."""
    if workers:
        numbers = range(count) if count is not None else range(2**62)
        loader = DataLoader(
            feed,  # type: ignore[arg-type]
            sampler=numbers,
            batch_size=None,
            collate_fn=_same,  # type: ignore[arg-type]
            num_workers=workers,
            generator=torch.Generator(),  # the global one belongs to the model
        )
        yield iter(loader)
        return
    stop, waiting = threading.Event(), queue.Queue(maxsize=AHEAD)
    thread = threading.Thread(target=_fill, args=(feed, count, waiting, stop), daemon=True)
    thread.start()
    try:
        yield _drain(waiting)
    finally:
        stop.set()
        while thread.is_alive():  # a thread that waits for room must find it to see that it should stop
            _discard(waiting)
            thread.join(timeout=0.05)


def _same(micro: Micro) -> Micro:
    return micro


def _fill(feed: Feed, count: int | None, waiting: "queue.Queue[object]", stop: threading.Event) -> None:
    number = 0
    try:
        while not stop.is_set() and (count is None or number < count):
            waiting.put(feed[number])
            number += 1
        waiting.put(None)
    except BaseException as error:  # told where it is waited for
        waiting.put(error)


def _drain(waiting: "queue.Queue[object]") -> Iterator[Micro]:
    while (item := waiting.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item  # type: ignore[misc]


def _discard(waiting: "queue.Queue[object]") -> None:
    try:
        waiting.get_nowait()
    except queue.Empty:
        return
