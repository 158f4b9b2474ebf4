"""DART (2502.11494): a few pivots, and the tokens that repeat them least.

Behind the connector, not after a layer of the language model, so that pivots are the largest visual tokens and none of
the text's; needs nothing but the tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import likeness, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, `pivots` of them by their size (sums of absolute values)."""

    budget: int = 64
    pivots: int = 4


class Dart(Choosing):
    """Each pivot in turn takes an equal share of the budget: the patches least like it that nobody has taken."""

    name = "dart"

    def __init__(self, *, budget: int = 64, pivots: int = 4) -> None:
        if pivots < 1:
            raise InputError(f"{pivots} pivots for strategy 'dart'; give 1 or more")
        super().__init__(budget=budget)
        self.pivots = pivots

    def choose(self, among: Among) -> Shares:
        """Take pivots and what differs from them."""
        return picked(unlike(among.features, self.budget, self.pivots), among.features.shape[1])


@torch.no_grad()
def unlike(features: Float[Tensor, "I N D"], budget: int, pivots: int) -> Int[Tensor, "I B"]:
    """The places of the pivots, and then of what each of them takes."""
    features = features.float()
    pivots = min(pivots, budget)
    first = features.norm(p=1, dim=-1).sort(dim=1, descending=True, stable=True).indices[:, :pivots]
    units = F.normalize(features, dim=-1)
    alike = likeness(units.take_along_dim(first[..., None], 1), units)
    places, left = [first], budget - pivots
    for number in range(pivots):
        share = -(-left // (pivots - number))
        worth = alike[:, number].scatter(1, torch.cat(places, dim=1), torch.inf)
        places.append(worth.sort(dim=1, stable=True).indices[:, :share])
        left -= share
    return torch.cat(places, dim=1)
