"""SCOPE (2510.24214): patches that cover what the others leave uncovered, and that stand out.

Behind the connector; needs the encoder's attention, unless `alpha` is 0: then coverage alone counts.
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
from foveal.relevance.tokens import attention_of, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image; a greater `alpha` weighs attention more."""

    budget: int = 64
    alpha: float = 1.0


class Scope(nn.Module):
    """The greatest gain of coverage times attention, again and again; a patch is covered as far as one like it is."""

    steered = False

    def __init__(self, *, budget: int = 64, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 0:
            raise InputError(f"an alpha of {alpha:g} for strategy 'scope'; give 0 or more")
        self.budget, self.alpha = checked(budget), alpha

    @property
    def needs(self) -> tuple[str, ...]:
        """What it asks of the encoder."""
        return ("attention",) if self.alpha else ()

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="scope")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Cover, weigh, take."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            worth = torch.ones_like(features[..., 0], dtype=torch.float32)
            if self.alpha:
                worth = attention_of(visual, images, name="scope") ** self.alpha
            return picked(covering(features, worth, self.budget), features.shape[1])

        return spend(visual, self.budget, choose, name="scope")


@torch.no_grad()
def covering(features: Float[Tensor, "I N D"], worth: Float[Tensor, "I N"], budget: int) -> Int[Tensor, "I B"]:
    """The places in the order of their choice."""
    units = F.normalize(features.float(), dim=-1)
    with own_dtype(units):
        alike = units @ units.transpose(1, 2)
    covered, left, places = torch.zeros_like(worth), torch.ones_like(worth, dtype=torch.bool), []
    for _ in range(budget):
        gain = (alike - covered[..., None]).clamp(min=0).sum(1) * worth
        place = gain.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
        left = left.scatter(1, place, False)
        covered = torch.maximum(covered, alike.gather(1, place[..., None].expand(-1, 1, alike.shape[2]))[:, 0])
        places.append(place)
    return torch.cat(places, dim=1)
