"""Classes of single tokens, straight off their hidden state (VisualBERT's VQA, 1908.03557)."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes; their names, where they have some, are the data's.

    `reads` says of which tokens, where words and sight have streams apart.
    """

    labels: int = 2
    reads: Literal["words", "sight"] = "words"


class TokenClassification(nn.Module):
    """`hidden[... D]` to `logits[... labels]`."""

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        labels: int = 2,
        reads: Literal["words", "sight"] = "words",
    ) -> None:
        super().__init__()
        self.reads = reads
        self.classes = Linear(width, labels)
        self.apply(small_normal)

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """Score every class."""
        return self.classes(hidden)
