"""The mean of neighbours on the grid, then a stack of linear maps: the plainest way to fewer tokens."""

from dataclasses import dataclass

from torch import nn

from foveal.connectors.mlp import Mlp
from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import checked, fold, folded


@dataclass(frozen=True, kw_only=True)
class Config:
    """`factor` neighbours of each side make one token; `depth` linear maps follow, as those of `mlp`."""

    factor: int = 2
    depth: int = 2
    activation: str = "gelu"
    bias: bool = True


class AveragePool(nn.Module):
    """`features[S E]` on grids to `[S/factor^2 D]`; raises InputError where there is no grid to fold."""

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        factor: int = 2,
        depth: int = 2,
        activation: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.factor = checked(factor, name="average_pool")
        self.map = Mlp(width_in=width_in, width_out=width_out, depth=depth, activation=activation, bias=bias)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells."""
        return folded(layout, self.factor, name="average_pool")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Average each block, then map."""
        blocks = fold(visual, self.plan(visual.layout), self.factor)
        return self.map(blocks.with_features(blocks.features.unflatten(1, (self.factor**2, -1)).mean(1)))
