"""A convolution over each image's grid before the MLP: neighbours are seen together before language reads them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import checked, fold, folded, runs
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings: the convolution's odd kernel and width, and the activation between the maps.

    With a `factor` above 1 so many neighbours of each side make one token: they first look around on the fine grid,
    each up to the next cell, and are joined before the convolution, so that what is small is read before it is folded.
    """

    kernel: int = 5
    width: int = 256
    activation: str = "gelu"
    factor: int = 1


class ConvMlp(nn.Module):
    """`features[S E]` to `features[S/factor^2 D]` on grids; raises InputError where there is no grid to fold."""

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        kernel: int = 5,
        width: int = 256,
        activation: str = "gelu",
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.factor = checked(factor, name="conv_mlp")
        if kernel % 2 == 0:
            raise InputError(f"conv_mlp has a kernel of {kernel}; give an odd one, so that the grid keeps its size")
        self.norm_in = nn.LayerNorm(width_in)  # taps of one encoder differ in scale
        self.reduce = Linear(width_in, width)
        if factor > 1:
            self.fine = nn.Conv2d(width, width, 3, padding=1)
            self.join = Linear(factor**2 * width, width)
        self.mix = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.map = Linear(width, width_out)
        self.norm_out = nn.LayerNorm(width_out)  # what fusion adds, such as places, must not drown
        self.activation = activation_of(activation)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells; they must lie on grids."""
        return folded(layout, self.factor, name="conv_mlp")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Norm, reduce, fold, look around, map, norm."""
        layout = self.plan(visual.layout)
        visual = visual.with_features(self.activation(self.reduce(self.norm_in(visual.features))))
        if self.factor > 1:
            around = visual.features + self._around(self.fine, visual.features, visual.layout)
            blocks = fold(visual.with_features(around), layout, self.factor)
            visual = blocks.with_features(self.activation(self.join(blocks.features)))
        features = visual.features + self._around(self.mix, visual.features, layout)
        return visual.with_features(self.norm_out(self.map(features)))

    def _around(self, mix: nn.Module, features: Tensor, layout: Layout) -> Tensor:
        parts, start = [], 0
        for grid, images in runs(layout.by_frame()):
            count = images * grid[0] * grid[1]
            maps = features[start : start + count].view(images, *grid, -1).permute(0, 3, 1, 2)
            parts.append(self.activation(mix(maps)).permute(0, 2, 3, 1).reshape(count, -1))
            start += count
        return torch.cat(parts) if parts else features
