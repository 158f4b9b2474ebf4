"""Answers that are chosen, not written: one pass, and the best of a fixed vocabulary of answers."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from foveal.core.types import Batch


@runtime_checkable
class Chooser(Protocol):
    """A model that scores whole answers."""

    def choose(self, batch: Batch) -> Int[Tensor, " B"]:
        """The best answer of each row, by its place in the answer vocabulary."""
        ...


def choose(model: Chooser, batch: Batch, **_: Any) -> Int[Tensor, "B 1"]:
    """The answers as `generate` would return them: one step long. What steers writing does not matter here."""
    return model.choose(batch)[:, None]
