"""Means of rectangles that are all about equal: pooling without looking."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.relevance.allocation import partition
from foveal.relevance.spending import Shares, checked, planned, spend


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` means an image."""

    budget: int = 64


class AveragePool(nn.Module):
    """The image parted evenly into exactly as many rectangles as the budget has."""

    steered = False

    def __init__(self, *, budget: int = 64) -> None:
        super().__init__()
        self.budget = checked(budget)

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="average_pool")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Part evenly, pool."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            made = partition(features[:, :, :1] * 0, grid=grid, budget=self.budget)
            return made.assignment, torch.ones_like(features[..., 0])

        return spend(visual, self.budget, choose, name="average_pool")
