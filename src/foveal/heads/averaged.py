"""Classes of a whole text with its images: each state scores them, and the scores are averaged (BLIP-2, 2301.12597)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes; their names, where they have some, are the data's."""

    labels: int = 2


class Averaged(nn.Module):
    """`hidden[B L D]` to `logits[B labels]`."""

    def __init__(self, *, width: int, vocabulary: int, table: nn.Parameter, labels: int = 2) -> None:
        super().__init__()
        self.classes = Linear(width, labels)
        self.apply(small_normal)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B K"]:
        """Score every class at every state, average."""
        return self.classes(hidden).mean(1)
