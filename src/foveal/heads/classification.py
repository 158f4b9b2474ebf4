"""Classes of a whole text with its images, read off the first token (BERT's pooler, 1810.04805)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes; their names, where they have some, are the data's."""

    labels: int = 2


class Classification(nn.Module):
    """`hidden[B L D]` to `logits[B labels]`."""

    first = True  # it reads no other token

    def __init__(self, *, width: int, vocabulary: int, table: nn.Parameter, labels: int = 2) -> None:
        super().__init__()
        self.pool = Linear(width, width)
        self.classes = Linear(width, labels)
        self.apply(small_normal)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B K"]:
        """Pool the first token, score every class."""
        return self.classes(torch.tanh(self.pool(hidden[:, 0])))
