"""Batches of a training that is only planned: what a frozen encoder sees is kept for as long as that takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli._training import Batches
from foveal.training.config import Stage
from foveal.training.feed import Feed, Micro

if TYPE_CHECKING:
    from foveal.training.config import Features


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What it takes to fill a store of features: images that are not in it, and operations and seconds of each."""

    images: int
    operations: float
    seconds: float


class Passing(Batches):
    """Batches whose cached features are made as they are wanted, in a `folder` of their own; `encodings` by store."""

    def __init__(self, batches: Batches, folder: Path) -> None:
        super().__init__(batches.run, batches.recipe, batches.data, say=batches.say, bar=batches.bar)
        self.folder, self.encodings = folder, dict[str, Encoding]()

    def _tell(self, stage: Stage, processor: Any) -> None:
        """The plan tells it in numbers."""

    def _stored(
        self,
        encoder: Any,
        call: Any,
        wanted: "Features",
        described: Mapping[str, Any],
        *,
        look: Any,
        images: list[Any],
    ) -> Any:
        """What an encoder says of images, as its store would tell it."""
        from functools import partial

        from foveal.training.features import Store, fill
        from foveal.training.processes import processes

        real = self._store(encoder, wanted, described)
        store = Store(self.folder / real.folder.name, wanted.dtype)
        settings = {"device": str(processes(self.recipe.training.device).device), "precision": wanted.precision}
        filled = partial(fill, store, encoder=call, look=look, batch_size=wanted.batch_size, **settings)
        if real.folder.name not in self.encodings:
            self.encodings[real.folder.name] = self._encoding(real.missing(images), filled, wanted.batch_size)

        def see(some: Sequence[Any]) -> Any:
            if store.missing(some):
                filled(some)
            return store(some)

        return see

    def _encoding(self, images: Sequence[Any], filled: Any, some: int) -> Encoding:
        """What it takes to have an encoder see these images, by a few of them."""
        from foveal.evaluation.flops import counting

        first, then = images[:some], images[some : 3 * some]
        if not first:
            return Encoding(images=0, operations=0.0, seconds=0.0)
        began = time.perf_counter()
        with counting(self.run.model) as flops:
            filled(first)
        seconds = (time.perf_counter() - began) / len(first)
        if then:  # the first ones found the encoder cold, and were counted
            began = time.perf_counter()
            filled(then)
            seconds = (time.perf_counter() - began) / len(then)
        return Encoding(images=len(images), operations=flops.total / len(first), seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Picked(Feed):
    """Some micro-batches of a feed, by their `numbers`, again and again."""

    numbers: Sequence[int] = (0,)

    def __getitem__(self, number: int) -> Micro:
        return super().__getitem__(self.numbers[number % len(self.numbers)])
