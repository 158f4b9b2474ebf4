"""DivPrune (2503.02175): patches that are as different from each other as can be, whatever is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.layers.precision import own_dtype
from foveal.relevance.spending import Shares, checked, planned, spend
from foveal.relevance.tokens import chosen


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image."""

    budget: int = 64


class Divprune(nn.Module):
    """Greedy max-min diversity over cosine distances; needs nothing but the tokens."""

    steered = False

    def __init__(self, *, budget: int = 64) -> None:
        super().__init__()
        self.budget = checked(budget)

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="divprune")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Take the farthest again and again."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            places = farthest(features, self.budget)
            return chosen(torch.zeros_like(features[..., 0]).scatter(1, places, 1.0), self.budget)

        return spend(visual, self.budget, choose, name="divprune")


@torch.no_grad()
def farthest(features: Float[Tensor, "I N D"], count: int) -> Tensor:
    """The places `[I count]` of patches in the order of their choice: first the one whose nearest other is farthest,
    then each time the one whose nearest chosen one is."""
    units = F.normalize(features.float(), dim=-1)
    with own_dtype(units):
        far = 1 - units @ units.transpose(1, 2)
    own = torch.eye(far.shape[1], dtype=torch.bool, device=far.device)
    nearest = far.masked_fill(own, torch.inf).amin(-1)
    places = [nearest.argmax(1)]
    nearest = torch.full_like(nearest, torch.inf)
    for _ in range(count - 1):
        last = places[-1][:, None]
        nearest = torch.minimum(nearest, far.gather(1, last[..., None].expand(-1, -1, far.shape[2]))[:, 0])
        nearest = nearest.scatter(1, last, -torch.inf)
        places.append(nearest.argmax(1))
    return torch.stack(places, dim=1)
