"""The next-token head: a linear map onto the vocabulary, or the embedding table itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`tied` shares the embedding table of the language model (1608.05859).

    The first `words` of the vocabulary alone are scored (None: all): the others are read and never written.
    """

    tied: bool = False
    bias: bool = False
    words: int | None = None


class LanguageModel(nn.Module):
    """`hidden[... D]` to `logits[... V]`; raises InputError for fewer words than a tied table has."""

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        tied: bool = False,
        bias: bool = False,
        words: int | None = None,
    ) -> None:
        super().__init__()
        vocabulary, every = words or vocabulary, vocabulary
        if vocabulary > every or (tied and vocabulary != every):
            raise InputError(
                f"a head that scores {vocabulary} words, tied={tied}, for a table of {every}; untie it, "
                f"or give words up to {every}"
            )
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
