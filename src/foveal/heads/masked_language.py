"""The masked-word head: transform, norm, and the embedding table with a bias of its own (BERT, 1810.04805)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.linear import linear
from foveal.layers.transformed import Transformed


@dataclass(frozen=True, kw_only=True)
class Config:
    """The activation and the norm of the transform; a head that is not `tied` has a table of its own."""

    activation: str = "gelu"
    eps: float = 1e-12
    tied: bool = True


class MaskedLanguage(Transformed):
    """`hidden[... D]` to `logits[... V]`; the table is the language model's, or one that begins as it."""

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        activation: str = "gelu",
        eps: float = 1e-12,
        tied: bool = True,
    ) -> None:
        super().__init__(width=width, activation=activation, eps=eps)
        self.table = table if tied else nn.Parameter(table.detach().clone())
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V"]:
        """Transform, norm, score every word."""
        return linear(self.transformed(hidden), self.table, self.bias)
