"""Selection as shares: the patches with the highest scores become tokens, and the others none."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.relevance.spending import Shares


def chosen(scores: Float[Tensor, "I N"], budget: int) -> Shares:
    """The `budget` best patches of each image, in raster order; of equal ones the first."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :budget]
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
    return torch.where(kept, kept.long().cumsum(1) - 1, -1), kept.to(scores.dtype)
