"""Patches by lot: the baseline that many published methods do not beat."""

from dataclasses import dataclass

import torch

from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import chosen


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, drawn by `seed`; every image of a grid gets the same places."""

    budget: int = 64
    seed: int = 0


class Random(Choosing):
    """A lot for each grid, so that an image alone is cut as in a batch."""

    name = "random"

    def __init__(self, *, budget: int = 64, seed: int = 0) -> None:
        super().__init__(budget=budget)
        self.seed = seed

    def choose(self, among: Among) -> Shares:
        """Draw and keep."""
        chance = torch.Generator().manual_seed(self.seed)
        lot = torch.rand(among.features.shape[1], generator=chance).to(among.features.device)
        return chosen(lot.expand(len(among.features), -1), self.budget)
