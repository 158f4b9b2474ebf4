"""What a model that is asked in words can be told, and what one that `foveal.load` returns can do."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, TypedDict, Unpack

from torch import Tensor

from foveal.core.types import Answer
from foveal.decode.sampling import Sampling
from foveal.relevance.pricing import Terms


class Asking(TypedDict, total=False):
    """The settings of an answer: how long it is, what it may cost to see, by which strategy, and how words are chosen.

    `budget` is the most visual tokens of each image, `price` what a token costs in the place of one (None: all are
    read); `videos` come after the images.
    """

    max_new_tokens: int
    budget: SupportsIndex | Terms | None
    price: float | None
    strategy: str
    videos: Any
    sampling: Sampling | None
    stop_ids: Collection[int]


class Loaded(Protocol):
    """A loaded model: called as its kind is, asked in words, saved. It is a torch module, with all that such have.

    A checkpoint of a kind that writes nothing has no `generate`, and no `answer` but one that says so.
    """

    model: Any

    @property
    def processor(self) -> Any:
        """What makes a batch of words and pictures, and words of tokens."""
        ...

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What the model says of a batch, or of its reference's arguments."""
        ...

    def answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Answer:
        """Answer a question about images (one or several: paths or opened pictures; None or [] for text alone)."""
        ...

    def stream_answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Iterator[Answer]:
        """The answer so far, after every token."""
        ...

    def generate(self, *given: Any, **named: Any) -> Tensor:
        """New tokens alone, `[B M]`."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a run directory that `foveal.load` reads back."""
        ...

    def __getattr__(self, name: str) -> Any:
        """What else a torch module has, and what this kind of model has beside it."""
        ...
