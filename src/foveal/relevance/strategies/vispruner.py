"""VisPruner (2412.01818): half of the budget for what the encoder attends to, half for what is left without twins.

Behind the connector; needs the encoder's attention.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import attention_of, likeness, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, the share `important` of them by attention."""

    budget: int = 64
    important: float = 0.5


class Vispruner(Choosing):
    """Beside the most attended patches, those that stay when the most alike are taken away, at most 8 at a time."""

    name = "vispruner"
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, important: float = 0.5) -> None:
        if not 0 <= important <= 1:
            raise InputError(f"a share of {important:g} important tokens for strategy 'vispruner'; give 0 to 1")
        super().__init__(budget=budget)
        self.important = important

    def choose(self, among: Among) -> Shares:
        """Attend, then take twins away."""
        attention = attention_of(among.visual, among.images, name=self.name)
        places = distinct(among.features, attention, self.budget, int(self.budget * self.important))
        return picked(places, among.features.shape[1])


@torch.no_grad()
def distinct(
    features: Float[Tensor, "I N D"], attention: Float[Tensor, "I N"], budget: int, important: int
) -> Int[Tensor, "I B"]:
    """The places of the important patches, the most attended first, and of the others that are left."""
    units = F.normalize(features.float(), dim=-1)
    order = attention.sort(dim=1, descending=True, stable=True).indices
    first, left = order[:, :important], order[:, important:]
    while (many := left.shape[1] - (budget - important)) > 0:
        mine = units.take_along_dim(left[..., None], 1)
        twin = likeness(mine[:, ::2], mine[:, 1::2]).amax(-1) if left.shape[1] > 1 else mine[:, :, 0]
        apart = twin.sort(dim=1, descending=True, stable=True).indices[:, min(8, many) :]
        left = torch.cat([left[:, ::2].gather(1, apart), left[:, 1::2]], dim=1)
    return torch.cat([first, left], dim=1)
