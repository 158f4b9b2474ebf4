"""Patches at even steps over the image: selection without looking."""

from dataclasses import dataclass

from foveal.relevance.allocation import evenly
from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image."""

    budget: int = 64


class Grid(Choosing):
    """The middle patch of each of as many rectangles as the budget has, all about equal."""

    name = "grid"

    def choose(self, among: Among) -> Shares:
        """Part evenly, keep the middles."""
        boxes = evenly(among.features, grid=among.grid, budget=self.budget).boxes
        middle = (boxes[..., :2] + boxes[..., 2:]) // 2
        place = middle[..., 0] * among.grid[1] + middle[..., 1]
        return picked(place, among.features.shape[1])
