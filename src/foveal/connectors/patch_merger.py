"""Neighbours on the grid side by side in one token, normed, then two linear maps (Qwen2-VL, 2409.12191)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from foveal.core.config import later
from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import checked, fold, folded
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of
from foveal.layers.norms import NormKind, norms


@dataclass(frozen=True, kw_only=True)
class Config:
    """`factor` neighbours of each side make one token; each is normed `before`, or all together `after` they are one.

    Qwen3-VL (2511.21631) norms after for the levels of its encoder. The norm's `kind` is "rms" in Qwen2.5-VL.
    """

    factor: int = 2
    norm: Literal["before", "after"] = "before"
    activation: str = "gelu"
    eps: float = 1e-6
    kind: NormKind = later("layer")


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
        kind: NormKind = "layer",
    ) -> None:
        super().__init__()
        self.factor = checked(factor, name="patch_merger")
        merged, make = width_in * factor**2, norms(kind, eps=eps)
        self.before = make(width_in) if norm == "before" else nn.Identity()
        self.after = make(merged) if norm == "after" else nn.Identity()
        self.up, self.down = Linear(merged, merged), Linear(merged, width_out)
        self.activation = activation_of(activation)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells."""
        return folded(layout, self.factor, name="patch_merger")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Norm, fold row by row within each block, map, activate, map."""
        layout = self.plan(visual.layout)
        blocks = fold(visual.with_features(self.before(visual.features)), layout, self.factor)
        return blocks.with_features(self.down(self.activation(self.up(self.after(blocks.features)))))
