"""Patches by lot: the baseline that many published methods do not beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.relevance.spending import Shares, checked, planned, spend
from foveal.relevance.tokens import chosen


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, drawn by `seed`; every image of a grid gets the same places."""

    budget: int = 64
    seed: int = 0


class Random(nn.Module):
    """A lot for each grid, so that an image alone is cut as in a batch."""

    steered = False

    def __init__(self, *, budget: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.budget, self.seed = checked(budget), seed

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="random")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Draw and keep."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            chance = torch.Generator().manual_seed(self.seed)
            lot = torch.rand(features.shape[1], generator=chance).to(features.device)
            return chosen(lot.expand(len(features), -1), self.budget)

        return spend(visual, self.budget, choose, name="random")
