"""SCOPE (2510.24214): patches that cover what the others leave uncovered, and that stand out.

Behind the connector; needs the encoder's attention, unless `alpha` is 0: then coverage alone counts.
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
    """`budget` patches an image; a greater `alpha` weighs attention more."""

    budget: int = 64
    alpha: float = 1.0


class Scope(Choosing):
    """The greatest gain of coverage times attention, again and again; a patch is covered as far as one like it is."""

    name = "scope"

    def __init__(self, *, budget: int = 64, alpha: float = 1.0) -> None:
        if alpha < 0:
            raise InputError(f"an alpha of {alpha:g} for strategy 'scope'; give 0 or more")
        super().__init__(budget=budget)
        self.alpha = alpha

    @property
    def needs(self) -> tuple[str, ...]:
        """What it asks of the encoder."""
        return ("attention",) if self.alpha else ()

    def choose(self, among: Among) -> Shares:
        """Cover, weigh, take."""
        worth = torch.ones_like(among.features[..., 0], dtype=torch.float32)
        if self.alpha:
            worth = attention_of(among.visual, among.images, name=self.name) ** self.alpha
        return picked(covering(among.features, worth, self.budget), among.features.shape[1])


@torch.no_grad()
def covering(features: Float[Tensor, "I N D"], worth: Float[Tensor, "I N"], budget: int) -> Int[Tensor, "I B"]:
    """The places in the order of their choice."""
    units = F.normalize(features.float(), dim=-1)
    alike = likeness(units, units)
    covered, left, places = torch.zeros_like(worth), torch.ones_like(worth, dtype=torch.bool), []
    for _ in range(budget):
        gain = (alike - covered[..., None]).clamp(min=0).sum(1) * worth
        place = gain.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
        left = left.scatter(1, place, False)
        covered = torch.maximum(covered, alike.gather(1, place[..., None].expand(-1, 1, alike.shape[2]))[:, 0])
        places.append(place)
    return torch.cat(places, dim=1)
