"""How evenly the entries of a codebook are used."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

USED = 0.03  # of its fair share: an entry chosen less often is dead
MEMORY = 0.98  # of how often entries were chosen, from one step to the next


def perplexity(counts: Float[Tensor, " K"] | Int[Tensor, " K"]) -> Float[Tensor, ""]:
    """The number of codes that, chosen equally often, would tell as much: e to the entropy of their shares."""
    shares = counts.double() / counts.sum()
    return torch.special.entr(shares).sum().exp().float()
