"""ToMe (2210.09461): the most alike of two halves of the tokens become one, round by round.

Behind the connector, not within the encoder's blocks; needs nothing but the tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.relevance.pooling import sums
from foveal.relevance.spending import Among, Choosing, Shares, of_images
from foveal.relevance.tokens import likeness


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` means an image."""

    budget: int = 64


class Tome(Choosing):
    """Bipartite soft matching; a token is the mean of its patches by their mass."""

    name = "tome"

    def choose(self, among: Among) -> Shares:
        """Match, merge, again."""
        mass = of_images(among.visual.mass, among.visual.layout, among.images)
        return in_order(merged(among.features.float(), mass, self.budget), self.budget), mass.to(among.features.dtype)


@torch.no_grad()
def merged(features: Float[Tensor, "I N D"], mass: Float[Tensor, "I N"], budget: int) -> Int[Tensor, "I N"]:
    """The token that each patch ends in; a round merges half of the tokens at most."""
    token = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
    while (left := features.shape[1]) > budget:
        count = max(budget, left - left // 2)
        place = matched(features, left - count)
        token = place.gather(1, token)
        whole = sums(mass[..., None], place, count)
        features, mass = sums(features * mass[..., None], place, count) / whole, whole[..., 0]
    return token


def matched(features: Float[Tensor, "I N D"], count: int) -> Int[Tensor, "I N"]:
    """Where each token stands when so many of every other one, from the first on, join the most alike of the rest."""
    units = F.normalize(features, dim=-1)
    best, friend = likeness(units[:, ::2], units[:, 1::2]).max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    stay = order.shape[1] - count
    place = torch.arange(-count, stay, device=features.device).expand_as(order)
    first = torch.empty_like(order).scatter(1, order, place)
    first = torch.where(first < 0, stay + friend, first)
    second = stay + torch.arange(features.shape[1] // 2, device=features.device).expand(len(features), -1)
    both = torch.empty(features.shape[:2], dtype=torch.long, device=features.device)
    both[:, ::2], both[:, 1::2] = first, second
    return both


def in_order(token: Int[Tensor, "I N"], budget: int) -> Int[Tensor, "I N"]:
    """The same tokens numbered by their first patches."""
    count = token.shape[1]
    place = torch.arange(count, device=token.device).expand_as(token)
    first = torch.full_like(token[:, :budget], count).scatter_reduce(1, token, place, "amin")
    return first.argsort(dim=1).argsort(dim=1).gather(1, token)
