"""Classes of a text with its images by the first token of either stream, multiplied or added (ViLBERT, 1908.02265)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes of two vectors of `pool` numbers (None: sight's width), joined by `method`.

    `inner` is the width of a layer between (0: none), `norm` whether it is normed; `rows` texts in turn are told as one
    (NLVR2's two images).
    """

    labels: int = 2
    pool: int | None = None
    method: Literal["mul", "sum"] = "mul"
    inner: int = 0
    norm: bool = True
    rows: int = 1
    activation: str = "gelu"
    eps: float = 1e-12


class Paired(nn.Module):
    """`hidden[B L D]` and sight's first token `[B E]` to `logits[B labels]`."""

    reads = "both"
    first = True  # it reads no other token of the words

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        sight: int,
        labels: int = 2,
        pool: int | None = None,
        method: Literal["mul", "sum"] = "mul",
        inner: int = 0,
        norm: bool = True,
        rows: int = 1,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        pool = pool or sight
        self.method, self.rows = method, rows
        self.words, self.sight = Linear(width, pool), Linear(sight, pool)
        self.up = Linear(rows * pool, inner) if inner else nn.Identity()
        self.inner_norm = nn.LayerNorm(inner, eps=eps) if inner and norm else nn.Identity()
        self.activation = activation_of(activation) if inner else nn.Identity()
        self.classes = Linear(inner or rows * pool, labels)
        self.apply(small_normal)

    def forward(
        self, hidden: Float[Tensor, "B L D"], seen: Float[Tensor, "B E"], there: Bool[Tensor, " B"]
    ) -> Float[Tensor, "N K"]:
        """Pool both, join, score every class; a row without images is what its words say alone."""
        words, sight = self.pooled(hidden, seen)
        joined = self.joined(words, sight, there)
        if len(joined) % self.rows:
            raise InputError(f"{len(joined)} texts for a head that reads {self.rows} together; give a multiple")
        return self.classes(self.inner_norm(self.activation(self.up(joined.view(-1, self.rows * joined.shape[1])))))

    def pooled(
        self, hidden: Float[Tensor, "B L D"], seen: Float[Tensor, "B E"]
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
        """The first token of each stream, mapped, and what is below zero cut off."""
        return torch.relu(self.words(hidden[:, 0])), torch.relu(self.sight(seen))

    def joined(
        self, words: Float[Tensor, "B P"], sight: Float[Tensor, "B P"], there: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B P"]:
        """The product or the sum of both."""
        both = words * sight if self.method == "mul" else words + sight
        return torch.where(there[:, None], both, words)
