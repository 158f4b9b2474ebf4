"""The next-token head: a linear map onto the vocabulary, or the embedding table itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`tied` shares the embedding table of the language model (1608.05859)."""

    tied: bool = False
    bias: bool = False


class LanguageModel(nn.Module):
    """`hidden[... D]` to `logits[... V]`."""

    def __init__(
        self, *, width: int, vocabulary: int, table: nn.Parameter, tied: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.map = Linear(width, vocabulary, bias=False, device="meta" if tied else None)
        if tied:
            self.map.weight = table
        else:
            small_normal(self.map)
        if bias:
            self.map.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V"]:
        """Score every word."""
        return self.map(hidden)
