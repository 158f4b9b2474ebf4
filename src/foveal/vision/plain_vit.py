"""A vision transformer that norms its patches before it places them, and its last state.

Pix2Seq's (2109.10852) with LayerNorms; with RMS norms and gated feed-forwards AIMv2 (2411.14402), as Ovis 2 has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.blocks import Block, attended
from foveal.layers.initial import small_normal
from foveal.layers.norms import NormKind, norms
from foveal.layers.patching import grid_of
from foveal.layers.sines import grid
from foveal.vision.vit import resized_positions


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the encoder; the defaults are the reference's ViT-B at 640 pixels.

    `image_size` (height, width) is that of the learned positions; fixed ones are made for any. A class token has no
    place and comes first among the tokens of its image. `gated` feed-forwards are SwiGLU's where `activation` is silu;
    `bias` is that of attention, `feed_bias` that of these.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    inner: int = 3072
    patch: int = 16
    image_size: Grid = (640, 640)
    channels: int = 3
    class_token: bool = False
    positions: Literal["learned", "sin_cos"] = "sin_cos"
    activation: str = "gelu"
    eps: float = 1e-6
    norm: NormKind = "layer"
    gated: bool = False
    bias: bool = True
    feed_bias: bool = True


class PlainVit(nn.Module):
    """Pixels to the normed last state of every patch, and of the class token where there is one.

    Raises InputError for a width that the heads do not divide, and for pixels whose sides are no multiples of `patch`.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        inner: int = 3072,
        patch: int = 16,
        image_size: Grid = (640, 640),
        channels: int = 3,
        class_token: bool = False,
        positions: Literal["learned", "sin_cos"] = "sin_cos",
        activation: str = "gelu",
        eps: float = 1e-6,
        norm: NormKind = "layer",
        gated: bool = False,
        bias: bool = True,
        feed_bias: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.grid = (image_size[0] // patch, image_size[1] // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.patch_norm = norms(norm, eps=eps)(width)
        self.class_token = nn.Parameter(torch.zeros(1, width)) if class_token else None
        learned = positions == "learned"
        cells = torch.empty(self.grid[0] * self.grid[1] if learned else 0, width)
        self.positions = nn.Parameter(nn.init.normal_(cells, std=0.02)) if learned else None
        parts: dict[str, Any] = {"width": width, "heads": heads, "inner": inner, "activation": activation, "eps": eps}
        parts |= {"norm": norm, "gated": gated, "bias": bias, "feed_bias": feed_bias}
        self.blocks = nn.ModuleList(Block(**parts) for _ in range(depth))
        self.last_norm = norms(norm, eps=eps)(width)
        self.apply(small_normal)

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a patch, and one more with a class token: then the tokens lie on no grid."""
        grids = [self._grid(size) for size in sizes]
        if self.class_token is None:
            return Layout.of_grids(grids)
        return Layout(counts=tuple(rows * columns + 1 for rows, columns in grids), grids=(None,) * len(grids))

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Embed the patches, norm and place them, run all blocks, norm."""
        hidden = self.embed(pixels.values)
        for block in self.blocks:
            hidden = block(hidden)
        return self._told(pixels, hidden)

    def attended(self, pixels: Pixels) -> VisualTokens:
        """The same with `attention` and `keys` of the last block."""
        hidden = self.embed(pixels.values)
        for block in self.blocks[:-1]:
            hidden = block(hidden)
        told = attended(self.blocks[-1], hidden, first=self.class_token is not None)  # type: ignore[arg-type]
        attention, keys = (part.flatten(0, 1) for part in told)
        return replace(self._told(pixels, self.blocks[-1](hidden)), attention=attention, keys=keys)

    def _told(self, pixels: Pixels, hidden: Float[Tensor, "T S E"]) -> VisualTokens:
        tiles, _, *size = pixels.values.shape
        layout = self.plan([(size[0], size[1])] * tiles)
        return VisualTokens.on_layout(self.last_norm(hidden).flatten(0, 1), layout)

    def embed(self, values: Float[Tensor, "T C H W"]) -> Float[Tensor, "T S E"]:
        """What the first block reads."""
        new = self._grid((values.shape[-2], values.shape[-1]))
        hidden = self.patches(values.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        hidden = self.patch_norm(hidden)
        if self.positions is None:
            hidden = hidden + grid(*new, self.width, device=hidden.device).to(hidden.dtype)
        else:
            hidden = hidden + resized_positions(self.positions, old=self.grid, new=new, extra=0)
        if self.class_token is None:
            return hidden
        return torch.cat([self.class_token.expand(len(hidden), 1, -1), hidden], dim=1)

    def _grid(self, size: Grid) -> Grid:
        return grid_of(size, self.patch, of="a vit with patches")
