"""No head: the states themselves, for who goes on with them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set."""


class States(nn.Module):
    """`hidden[... D]` as it is."""

    def __init__(self, *, width: int, vocabulary: int, table: nn.Parameter) -> None:
        super().__init__()

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The states."""
        return hidden
