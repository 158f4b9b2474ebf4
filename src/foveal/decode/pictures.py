"""Pictures written token by token: exactly as many image words as a picture has, and nothing else (2405.09818)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.types import Batch
from foveal.decode.constrained import write
from foveal.decode.generate import Writer
from foveal.decode.sampling import Sampling, greedy


@runtime_checkable
class Painter(Writer, Protocol):
    """A model with words that pictures are made of."""

    @property
    def picture_words(self) -> Int[Tensor, " K"] | None:
        """The word of each code."""
        ...


def pictures(
    model: Painter, batch: Batch, *, count: int, begin: Sequence[int] = (), sampling: Sampling = greedy
) -> Int[Tensor, "B N"]:
    """The codes of one picture a row, `count` of them: after the prompt the words `begin`, then image words alone.

    Takes the errors of `generate`; the model must have image words.
    """
    words = model.picture_words
    assert words is not None
    device = batch.input_ids.device
    table = torch.zeros(len(begin) + 1, model.language.vocabulary, dtype=torch.bool, device=device)
    table[range(len(begin)), list(begin)] = True
    table[-1, words.to(device)] = True
    steps = len(begin) + count
    written = write(
        model, batch, legal=lambda new: table[min(new.shape[1], len(begin))], steps=steps, sampling=sampling
    )
    codes = torch.full((model.language.vocabulary,), -1, device=device)
    codes[words.to(device)] = torch.arange(len(words), device=device)
    return codes[written.tokens[:, len(begin) :]]
