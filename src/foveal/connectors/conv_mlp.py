"""A convolution over each image's grid before the MLP: neighbours are seen together before language reads them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.layers.folding import runs
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation as named


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings: the convolution's odd kernel and width, and the activation between the maps."""

    kernel: int = 5
    width: int = 256
    activation: str = "gelu"


class ConvMlp(nn.Module):
    """`features[S E]` to `features[S D]` on grids; raises InputError where tokens lie on no grid."""

    def __init__(
        self, *, width_in: int, width_out: int, kernel: int = 5, width: int = 256, activation: str = "gelu"
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise InputError(f"conv_mlp has a kernel of {kernel}; give an odd one, so that the grid keeps its size")
        self.norm_in = nn.LayerNorm(width_in)  # taps of one encoder differ in scale
        self.reduce = Linear(width_in, width)
        self.mix = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.map = Linear(width, width_out)
        self.norm_out = nn.LayerNorm(width_out)  # what fusion adds, such as places, must not drown
        self.activation = named(activation)

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in; they must lie on grids."""
        for i, grid in enumerate(layout.grids):
            if grid is None:
                raise InputError(f"conv_mlp folds a grid, but the tokens of image {i} lie on none; use mlp")
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Norm, reduce, look around, map, norm."""
        features = self.activation(self.reduce(self.norm_in(visual.features)))
        return visual.with_features(self.norm_out(self.map(features + self._around(features, visual.layout))))

    def _around(self, features: Tensor, layout: Layout) -> Tensor:
        parts, start = [], 0
        for grid, images in runs(self.plan(layout).by_frame()):
            count = images * grid[0] * grid[1]
            maps = features[start : start + count].view(images, *grid, -1).permute(0, 3, 1, 2)
            parts.append(self.activation(self.mix(maps)).permute(0, 2, 3, 1).reshape(count, -1))
            start += count
        return torch.cat(parts) if parts else features
