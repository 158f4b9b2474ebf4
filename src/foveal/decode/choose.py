"""Answers that are chosen, not written: one pass, and the best of a vocabulary, or of a question's own choices."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch


@runtime_checkable
class Chooser(Protocol):
    """A model that scores whole answers."""

    def choose(self, batch: Batch) -> Int[Tensor, "Q M"]:
        """The best answer to each question, as the tokens that its processor makes words of."""
        ...


def choose(model: Chooser, batch: Batch, **_: Any) -> Int[Tensor, "Q M"]:
    """The answers as `generate` would return them. What steers writing does not matter here."""
    return model.choose(batch)


@runtime_checkable
class Picker(Protocol):
    """A model that scores the choices of a question."""

    def pick(self, batch: Batch) -> Int[Tensor, " Q"]:
        """The place of the best choice of each question."""
        ...


def places(model: Chooser, batch: Batch, **_: Any) -> Int[Tensor, "Q M"]:
    """The same, but of choices their places: words that no token stands for tell them apart all the same."""
    return model.pick(batch)[:, None] if batch.choices and isinstance(model, Picker) else model.choose(batch)


def worded(best: Int[Tensor, " Q"], batch: Batch) -> Int[Tensor, "Q M"]:
    """The labelled words of each question's choice at its place, and IGNORE after them.

    Raises InputError for a batch that labels no words.
    """
    if batch.labels is None:
        raise InputError("the batch does not say which words its choices are; make it with a processor of 'choices'")
    said = batch.labels[best + batch.choices * torch.arange(len(best), device=best.device)]
    first = (said == IGNORE).byte().argsort(dim=1, stable=True)
    return said.gather(1, first)[:, : int((said != IGNORE).sum(1).max())]
