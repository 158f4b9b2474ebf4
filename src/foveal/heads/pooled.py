"""The first token alone, mapped and bounded: what references call the pooled output (BERT, 1810.04805)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set."""


class Pooled(nn.Module):
    """`hidden[B L D]` to `[B D]`."""

    first = True  # it reads no other token

    def __init__(self, *, width: int, vocabulary: int, table: nn.Parameter) -> None:
        super().__init__()
        self.pool = Linear(width, width)
        small_normal(self.pool)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        """Map the first token."""
        return torch.tanh(self.pool(hidden[:, 0]))
