"""Patches of pixels as they are: one linear map, and no encoder before the language layers (ViLT, 2102.03334)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.patching import grid_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Patches of `patch` x `patch` pixels of square images; a learned token of the class goes before them.

    With `positions` each has a learned one, resized to images of another size; else the fusion numbers them (BEiT-3).
    """

    width: int = 768
    patch: int = 16
    image_size: int = 224
    channels: int = 3
    class_token: bool = True
    positions: bool = False


class Patches(nn.Module):
    """Pixels to one token a patch, in raster order.

    Raises InputError for a size that patches do not fill, and without `positions` for images of another size.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        patch: int = 16,
        image_size: int = 224,
        channels: int = 3,
        class_token: bool = True,
        positions: bool = False,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise InputError(f"images of {image_size} pixels with patches of {patch}; give a multiple of {patch}")
        self.width, self.patch, self.image_size = width, patch, image_size
        self.grid = (image_size // patch, image_size // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.apply(small_normal)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        table = torch.zeros(1, self.grid[0] * self.grid[1] + class_token, width)
        self.positions = nn.init.normal_(nn.Parameter(table), std=0.02) if positions else None

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a patch, and the class token: then the tokens lie on no grid."""
        layout = Layout.of_grids([self._grid(size) for size in sizes])
        if self.class_token is None:
            return layout
        return Layout(counts=tuple(count + 1 for count in layout.counts), grids=(None,) * len(sizes))

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Cut, map, and put the class token first."""
        tiles, _, height, width = pixels.values.shape
        layout = self.plan([(height, width)] * tiles)
        features = self.patches(pixels.values.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            features = torch.cat([self.class_token.expand(tiles, 1, -1), features], dim=1)
        if self.positions is not None:
            features = features + self._resized(self.positions, self._grid((height, width)))
        return VisualTokens.on_layout(features.flatten(0, 1), layout)

    def _grid(self, size: Grid) -> Grid:
        height, width = size
        if self.positions is None and (height, width) != (self.image_size, self.image_size):
            raise InputError(
                f"an image of {height} x {width} pixels (height x width) for patches of images of "
                f"{self.image_size} x {self.image_size}; resize it to that"
            )
        return grid_of(size, self.patch)

    def _resized(self, positions: Float[Tensor, "1 P E"], new: Grid) -> Float[Tensor, "1 S E"]:
        """The learned grid brought to another, bilinear from corner to corner; the class keeps its own."""
        if new == self.grid:
            return positions
        first, table = positions[:, : -self.grid[0] * self.grid[1]], positions[:, -self.grid[0] * self.grid[1] :]
        table = table.transpose(1, 2).unflatten(2, self.grid)
        table = F.interpolate(table, size=new, mode="bilinear", align_corners=True)
        return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1)
