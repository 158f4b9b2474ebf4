"""LLaVA-PruMerge (2403.15388): the patches that the encoder attends to most, each with what is like it.

Behind the connector; needs the encoder's attention, and its keys to tell what is alike. The number of tokens is the
budget's; the paper lets outliers of the attention decide.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Sums
from foveal.relevance.tokens import attention_of, keys_of, likeness


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` tokens an image, each with its `near` most alike patches."""

    budget: int = 64
    near: int = 32


class Prumerge(Choosing):
    """All but one token are a patch and, by attention, those most like it, be they tokens themselves; one is, by
    attention, the sum of all others."""

    name = "prumerge"
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, near: int = 32) -> None:
        if near < 1:
            raise InputError(f"{near} patches near each for strategy 'prumerge'; give 1 or more")
        super().__init__(budget=budget)
        self.near = near

    def choose(self, among: Among) -> Sums:
        """Attend, then merge."""
        attention = attention_of(among.visual, among.images, name=self.name)
        return merged(attention, keys_of(among.visual, among.images, name=self.name).flatten(2), self.budget, self.near)


@torch.no_grad()
def merged(attention: Float[Tensor, "I N"], keys: Float[Tensor, "I N K"], budget: int, near: int) -> Sums:
    """What is in each token, in raster order and the sum last; with a budget of 1 there is no sum."""
    images, count = attention.shape
    centres = max(1, budget - 1)
    first = attention.sort(dim=1, descending=True, stable=True).indices[:, :centres].sort(dim=1).values
    own = F.one_hot(first, count)
    units = F.normalize(keys, dim=-1)
    alike = likeness(units.take_along_dim(first[..., None], 1), units).masked_fill(own.bool(), -torch.inf)
    friends = alike.sort(dim=-1, descending=True, stable=True).indices[..., : min(near, count - 1)]
    joined = torch.zeros_like(alike).scatter(2, friends, 1.0)
    parts = own + joined * attention[:, None]
    token = torch.full((images, count), centres if budget > 1 else -1, device=keys.device)
    token = token.scatter(1, first, torch.arange(centres, device=keys.device).expand_as(first))
    if budget == 1:
        return Sums(parts=parts, token=token)
    rest = attention * (own.sum(1) == 0)
    return Sums(parts=torch.cat([parts, rest[:, None]], dim=1), token=token)
