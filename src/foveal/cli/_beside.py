"""A training beside another: in a process of its own, on half of the cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import wait
from pathlib import Path

from foveal.cli._recipe import Recipe


@contextmanager
def beside(recipe: Recipe, run: Path) -> Iterator[None]:
    """Meanwhile `recipe` is trained into `run` too, on a processor that has two cores or more; ends when both have.

    A small model's step keeps hardly more than one core busy, so that two trainings take the time of the longer one.
    Whoever wants the run carries the recipe out afterwards: what is done is found, and what went wrong comes up again.
    """
    import torch

    from foveal.training.processes import on_cpu

    cores = torch.get_num_threads()
    if cores < 2 or not on_cpu(recipe.training.device):
        yield
        return
    other = multiprocessing.get_context("spawn").Process(target=_alone, args=(recipe, run, cores // 2))
    other.start()
    torch.set_num_threads(cores - cores // 2)
    try:
        yield
        other.join()
    finally:
        torch.set_num_threads(cores)
        other.terminate()  # politely: it keeps what it has learned so far
        other.join()


def _alone(recipe: Recipe, run: Path, threads: int) -> None:
    """What the other process does."""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C is the first one's to hear, who asks this one to end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from foveal.cli._show import no_bar
    from foveal.cli._training import carry_out

    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(Exception):
        carry_out(recipe, run, fresh=False, say=lambda line: None, bar=no_bar)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # it was spawned
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
