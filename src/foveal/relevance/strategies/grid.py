"""Patches at even steps over the image: selection without looking."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.types import Grid as Sides
from foveal.core.types import Layout, Query, VisualTokens
from foveal.relevance.allocation import partition
from foveal.relevance.spending import Shares, checked, planned, spend
from foveal.relevance.tokens import chosen


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image."""

    budget: int = 64


class Grid(nn.Module):
    """The middle patch of each of as many rectangles as the budget has, all about equal."""

    steered = False

    def __init__(self, *, budget: int = 64) -> None:
        super().__init__()
        self.budget = checked(budget)

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="grid")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Part evenly, keep the middles."""

        def choose(features: Tensor, grid: Sides, images: Sequence[int]) -> Shares:
            boxes = partition(features[:, :, :1] * 0, grid=grid, budget=self.budget).boxes
            middle = (boxes[..., :2] + boxes[..., 2:]) // 2
            place = middle[..., 0] * grid[1] + middle[..., 1]
            return chosen(torch.zeros_like(features[..., 0]).scatter(1, place, 1.0), self.budget)

        return spend(visual, self.budget, choose, name="grid")
