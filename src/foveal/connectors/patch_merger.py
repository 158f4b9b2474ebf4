"""Neighbours on the grid side by side in one token, normed, then two linear maps (Qwen2-VL, 2409.12191)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import checked, fold, folded
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation as named


@dataclass(frozen=True, kw_only=True)
class Config:
    """`factor` neighbours of each side make one token; each is normed `before`, or all together `after` they are one.

    Qwen3-VL (2511.21631) norms after for the levels of its encoder.
    """

    factor: int = 2
    norm: Literal["before", "after"] = "before"
    activation: str = "gelu"
    eps: float = 1e-6


class PatchMerger(nn.Module):
    """`features[S E]` on grids to `features[S/factor^2 D]`; raises InputError where there is no grid to fold."""

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        factor: int = 2,
        norm: Literal["before", "after"] = "before",
        activation: str = "gelu",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.factor = checked(factor, name="patch_merger")
        merged = width_in * factor**2
        self.before = nn.LayerNorm(width_in, eps=eps) if norm == "before" else nn.Identity()
        self.after = nn.LayerNorm(merged, eps=eps) if norm == "after" else nn.Identity()
        self.up, self.down = Linear(merged, merged), Linear(merged, width_out)
        self.activation = named(activation)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells."""
        return folded(layout, self.factor, name="patch_merger")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Norm, fold row by row within each block, map, activate, map."""
        layout = self.plan(visual.layout)
        blocks = fold(visual.with_features(self.before(visual.features)), layout, self.factor)
        return blocks.with_features(self.down(self.activation(self.up(self.after(blocks.features)))))
