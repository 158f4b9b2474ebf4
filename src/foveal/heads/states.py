"""No head: the states themselves, for who goes on with them."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whose states, where words and sight have streams apart."""

    reads: Literal["words", "sight"] = "words"


class States(nn.Module):
    """`hidden[... D]` as it is."""

    def __init__(
        self, *, width: int, vocabulary: int, table: nn.Parameter, reads: Literal["words", "sight"] = "words"
    ) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The states."""
        return hidden
