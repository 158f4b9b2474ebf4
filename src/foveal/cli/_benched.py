"""The sides of `foveal bench`: a model with all of its visual tokens, under budgets, and by transformers itself."""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError

ALL, THEIRS = "all tokens", "huggingface"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked, of which model: pictures by name, or one made here, `size` pixels a side; `rows` at once."""

    run: Path | None
    images: tuple[str, ...]
    size: int
    prompt: str
    new: int
    rows: int
    dtype: str = "float32"
    against: str | None = None
    spendings: tuple[tuple[str, Any], ...] = ()

    def pictures(self) -> list[Any]:
        """The pictures, opened; those of a directory of frames or a video as their paths."""
        from foveal.cli.ask import picture

        return [picture(name) for name in self.images] or [noise(self.size)]


def noise(size: int, *, seed: int = 0) -> Any:
    """A picture of that side whose pixels say nothing; raises InputError for a side of none."""
    import numpy as np
    from PIL import Image

    if size < 1:
        raise InputError(f"--size {size}; give the side of the made picture in pixels, 1 or more")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8))


class Ours:
    """A model of Foveal's, with all visual tokens or, where a budget is `spent`, some; `said` are its last tokens."""

    def __init__(self, loaded: Any, wish: Wish, spent: tuple[str, Any] | None = None) -> None:
        from foveal.models.budget import budgeted, unspent

        self.loaded, self.wish, self.said, self.tokens = loaded, wish, None, 0
        self.model = unspent(loaded.model) if spent is None else budgeted(loaded.model, spent[1], spent[0])
        if self.model.vision is None and wish.images:
            raise InputError(f"{len(wish.images)} images for a model without a vision encoder; leave --image out")
        self.images = [] if self.model.vision is None else wish.pictures()
        self.device = next(self.model.parameters()).device
        self.clock = clock(self.device)
        self.visual_tokens: int | None = None

    def __call__(self) -> dict[str, float]:
        """Seconds by part: the pictures and words prepared, seen, chosen among, and an answer written."""
        from foveal.evaluation.bench import written
        from foveal.evaluation.latency import first_token
        from foveal.models.budget import allocator_of

        start = self.clock()
        batch = self._batch()
        told = {"prepare": self.clock() - start}
        self.tokens = batch.input_ids.shape[1]
        if batch.visual is not None:
            parts = first_token(self.model, batch, clock=self.clock)
            chosen = {} if allocator_of(self.model) is None else {"choose": parts.scorer}
            told |= {"see": parts.encoder, **chosen, "read": parts.prefill}
        paced, self.said = written(self.model, batch, new=self.wish.new, clock=self.clock)
        return told | paced

    def _batch(self) -> Any:
        asked = [(self.images, self.wish.prompt)] * self.wish.rows
        counts: list[int] = []

        def plan(*given: Any, **named: Any) -> Any:
            layout = self.model.plan(*given, **named)
            counts.append(layout.total)
            return layout

        batch = self.loaded.processor.prompt(asked, plan=plan, room=self.wish.new)
        self.visual_tokens = (counts[-1] if counts else 0) // self.wish.rows
        return batch.to(self.device)


class Whole:
    """A model that does not write freely, token by token: its answer is timed as a whole, with all that leads to it."""

    said, tokens = None, 0

    def __init__(self, loaded: Any, wish: Wish, spent: tuple[str, Any] | None = None) -> None:
        if wish.rows > 1:
            raise InputError(f"--batch {wish.rows} of a model that is asked one by one; leave it out")
        self.loaded, self.wish, self.images = loaded, wish, wish.pictures()
        self.spending: Any = {"strategy": "all"} if spent is None else {"strategy": spent[0], "budget": spent[1]}
        self.clock = clock(next(loaded.model.parameters()).device)
        self.visual_tokens: int | None = None

    def __call__(self) -> dict[str, float]:
        """Seconds of the whole answer."""
        start = self.clock()
        answer = self.loaded.answer(self.images, self.wish.prompt, max_new_tokens=self.wish.new, **self.spending)
        self.visual_tokens = answer.visual_tokens
        return {"answer": self.clock() - start}


def clock(device: Any) -> Callable[[], float]:
    """What tells seconds: of this process where one thread does all, whom others do not disturb; else by the clock."""
    import torch

    from foveal.evaluation.latency import clock_of

    alone = device.type != "cpu" or torch.get_num_threads() == 1
    return clock_of(device) if alone else time.perf_counter


def names(wish: Wish) -> list[str]:
    """The sides in their order; the first is what the others are compared with."""
    return [*([THEIRS] if wish.against else []), *_spent(wish)]


def _spent(wish: Wish) -> dict[str, tuple[str, Any] | None]:
    """What each side of Foveal's spends, by its name."""
    return {ALL: None} | {f"{strategy} {budget}": (strategy, budget) for strategy, budget in wish.spendings}


def sides(wish: Wish, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Those of the `names` that are wanted, with their model; takes the errors of a run that cannot be asked so."""
    from foveal.cli._against import Theirs
    from foveal.cli._runs import open_run
    from foveal.models.causal import Causal

    ours = {name: spent for name, spent in _spent(wish).items() if name in wanted}
    if ours:
        loaded = open_run(wish.run, dtype=wish.dtype)
        if loaded.processor is None:
            raise InputError(f"{wish.run} was written without a processor, so it cannot be asked in words")
        way = Ours if isinstance(loaded.model, Causal) and loaded.processor.speller is None else Whole
        yield from ((name, way(loaded, wish, spent)) for name, spent in ours.items())
    if THEIRS in wanted:
        yield THEIRS, Theirs(wish)


def peak(wish: Wish, name: str, threads: int) -> int | None:
    """The most bytes that a process of its own holds which loads a side and has it answer; None where none tells, or it
    was ended for holding too many.
    """
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_held, wish, name, threads).result()
    except BrokenProcessPool:
        return None


def _held(wish: Wish, name: str, threads: int) -> int | None:
    import torch

    from foveal.cli._cost import memory

    torch.set_num_threads(threads)
    with memory() as most:
        for _, side in sides(wish, [name]):
            side()
        return most()
