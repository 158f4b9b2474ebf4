"""DART (2502.11494): a few pivots, and the tokens that repeat them least.

Behind the connector, not after a layer of the language model, so that pivots are the largest visual tokens and none of
the text's; needs nothing but the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.layers.precision import own_dtype
from foveal.relevance.spending import Shares, checked, planned, spend
from foveal.relevance.tokens import picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, `pivots` of them by their size (sums of absolute values)."""

    budget: int = 64
    pivots: int = 4


class Dart(nn.Module):
    """Each pivot in turn takes an equal share of the budget: the patches least like it that nobody has taken."""

    steered = False

    def __init__(self, *, budget: int = 64, pivots: int = 4) -> None:
        super().__init__()
        if pivots < 1:
            raise InputError(f"{pivots} pivots for strategy 'dart'; give 1 or more")
        self.budget, self.pivots = checked(budget), pivots

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="dart")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Take pivots and what differs from them."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            return picked(unlike(features, self.budget, self.pivots), features.shape[1])

        return spend(visual, self.budget, choose, name="dart")


@torch.no_grad()
def unlike(features: Float[Tensor, "I N D"], budget: int, pivots: int) -> Int[Tensor, "I B"]:
    """The places of the pivots, and then of what each of them takes."""
    features = features.float()
    pivots = min(pivots, budget)
    first = features.norm(p=1, dim=-1).sort(dim=1, descending=True, stable=True).indices[:, :pivots]
    units = F.normalize(features, dim=-1)
    with own_dtype(units):
        alike = units.gather(1, first[..., None].expand(-1, -1, units.shape[2])) @ units.transpose(1, 2)
    places, left = [first], budget - pivots
    for number in range(pivots):
        share = -(-left // (pivots - number))
        worth = alike[:, number].scatter(1, torch.cat(places, dim=1), torch.inf)
        places.append(worth.sort(dim=1, stable=True).indices[:, :share])
        left -= share
    return torch.cat(places, dim=1)
