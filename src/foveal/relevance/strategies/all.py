"""Every token is kept: what all others are measured against."""

import sys
from dataclasses import dataclass

from torch import nn

from foveal.core.types import Layout, Query, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """A `budget` is accepted and not needed."""

    budget: int = 0


class All(nn.Module):
    """Visual tokens as they are."""

    steered = False

    def __init__(self, *, budget: int = 0) -> None:
        super().__init__()
        self.budget = sys.maxsize  # nothing is above it: images in tiles stay as they are joined

    def plan(self, layout: Layout) -> Layout:
        """The same layout."""
        return layout

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """The same tokens."""
        return visual
