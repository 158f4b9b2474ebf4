"""Learned positions as BEiT-3's tables number them (2208.10442)."""

from jaxtyping import Float, Int
from torch import Tensor, nn

FIRST = 2  # the row of position 0


class Positions(nn.Embedding):
    """A table `[2 + count D]` of `count` positions; its first two rows are never read."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(FIRST + count, width)
        nn.init.normal_(self.weight, std=0.02)
        self.count = count

    def forward(self, input: Int[Tensor, "*places"]) -> Float[Tensor, "*places D"]:
        """The rows of these positions."""
        return super().forward(input + FIRST)
