"""Means of rectangles that are all about equal: pooling without looking."""

from dataclasses import dataclass

import torch

from foveal.relevance.allocation import evenly
from foveal.relevance.spending import Among, Choosing, Shares


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` means an image."""

    budget: int = 64


class AveragePool(Choosing):
    """The image parted evenly into exactly as many rectangles as the budget has."""

    name = "average_pool"

    def choose(self, among: Among) -> Shares:
        """Part evenly, pool."""
        made = evenly(among.features, grid=among.grid, budget=self.budget)
        return made.assignment, torch.ones_like(among.features[..., 0])
