"""Patches of pixels as they are: one linear map, and no encoder before the language layers (BEiT-3, 2208.10442)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.initial import small_normal


@dataclass(frozen=True, kw_only=True)
class Config:
    """Patches of `patch` x `patch` pixels of square images; a learned token of the class goes before them."""

    width: int = 768
    patch: int = 16
    image_size: int = 224
    channels: int = 3
    class_token: bool = True


class Patches(nn.Module):
    """Pixels to one token a patch, in raster order; positions are left to the fusion.

    Raises InputError for a size that patches do not fill, and for images of another size.
    """

    def __init__(
        self, *, width: int = 768, patch: int = 16, image_size: int = 224, channels: int = 3, class_token: bool = True
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise InputError(f"images of {image_size} pixels with patches of {patch}; give a multiple of {patch}")
        self.width, self.image_size, self.grid = width, image_size, (image_size // patch, image_size // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.apply(small_normal)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a patch, and the class token: then the tokens lie on no grid."""
        for height, width in sizes:
            if (height, width) != (self.image_size, self.image_size):
                raise InputError(
                    f"an image of {height} x {width} pixels (height x width) for patches of images of "
                    f"{self.image_size} x {self.image_size}; resize it to that"
                )
        layout = Layout.of_grids([self.grid] * len(sizes))
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
        return VisualTokens.on_layout(features.flatten(0, 1), layout)
