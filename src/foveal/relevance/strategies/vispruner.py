"""VisPruner (2412.01818): half of the budget for what the encoder attends to, half for what is left without twins.

Behind the connector; needs the encoder's attention.
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
    """`budget` patches an image, the share `important` of them by attention."""

    budget: int = 64
    important: float = 0.5


class Vispruner(nn.Module):
    """Beside the most attended patches, those that stay when the most alike are taken away, at most 8 at a time."""

    steered = False
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, important: float = 0.5) -> None:
        super().__init__()
        if not 0 <= important <= 1:
            raise InputError(f"a share of {important:g} important tokens for strategy 'vispruner'; give 0 to 1")
        self.budget, self.important = checked(budget), important

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="vispruner")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Attend, then take twins away."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            attention = attention_of(visual, images, name="vispruner")
            places = distinct(features, attention, self.budget, int(self.budget * self.important))
            return picked(places, features.shape[1])

        return spend(visual, self.budget, choose, name="vispruner")


@torch.no_grad()
def distinct(
    features: Float[Tensor, "I N D"], attention: Float[Tensor, "I N"], budget: int, important: int
) -> Int[Tensor, "I B"]:
    """The places of the important patches, the most attended first, and of the others that are left."""
    units = F.normalize(features.float(), dim=-1)
    order = attention.sort(dim=1, descending=True, stable=True).indices
    first, left = order[:, :important], order[:, important:]
    while (many := left.shape[1] - (budget - important)) > 0:
        mine = units.gather(1, left[..., None].expand(-1, -1, units.shape[2]))
        with own_dtype(units):
            twin = (mine[:, ::2] @ mine[:, 1::2].transpose(1, 2)).amax(-1) if left.shape[1] > 1 else mine[:, :, 0]
        apart = twin.sort(dim=1, descending=True, stable=True).indices[:, min(8, many) :]
        left = torch.cat([left[:, ::2].gather(1, apart), left[:, 1::2]], dim=1)
    return torch.cat([first, left], dim=1)
