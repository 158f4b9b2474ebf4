"""Neighbours on the grid side by side in one token, then a linear map (Idefics3, 2408.12637; InternVL, 2404.16821)."""

from dataclasses import dataclass

from torch import nn

from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import checked, fold, folded
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """`factor` neighbours of each side make one token."""

    factor: int = 2
    bias: bool = False


class PixelShuffle(nn.Module):
    """`features[S E]` on grids to `features[S/factor^2 D]`; raises InputError where there is no grid to fold."""

    def __init__(self, *, width_in: int, width_out: int, factor: int = 2, bias: bool = False) -> None:
        super().__init__()
        self.factor = checked(factor, name="pixel_shuffle")
        self.map = Linear(width_in * factor**2, width_out, bias=bias)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells."""
        return folded(layout, self.factor, name="pixel_shuffle")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Fold row by row within each block, then map."""
        blocks = fold(visual, self.plan(visual.layout), self.factor)
        return blocks.with_features(self.map(blocks.features))
