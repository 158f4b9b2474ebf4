"""A vision transformer for images of any shape, filled up to one size in a batch: IDEFICS-2's (2405.02246)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.blocks import Block
from foveal.layers.initial import small_normal


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the tower; the defaults are SigLIP-B/16's. Learned positions are those of a square `image_size`.

    With `filling` the tokens of patches that no image fills are given too, though no other sees them (Idefics3,
    2408.12637); a patch is then the image's where it fills any of it.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    inner: int = 3072
    patch: int = 16
    image_size: int = 224
    channels: int = 3
    activation: str = "gelu_tanh"
    eps: float = 1e-6
    filling: bool = False


class NativeVit(nn.Module):
    """Pixels to the normed last state of every whole patch of an image's own pixels, in raster order.

    A patch takes the learned position of the place, as a fraction of the image, at which it lies (NaViT, 2307.06304).
    Raises InputError for a width that the heads do not divide, for images without a whole patch, and for sizes beyond
    the pixels.
    """

    reads_sizes = True  # side by side, each with its own filling

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        inner: int = 3072,
        patch: int = 16,
        image_size: int = 224,
        channels: int = 3,
        activation: str = "gelu_tanh",
        eps: float = 1e-6,
        filling: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.patch, self.side, self.filling = width, patch, image_size // patch, filling
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(self.side**2, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, inner=inner, activation=activation, eps=eps) for _ in range(depth)
        )
        self.post_norm = nn.LayerNorm(width, eps=eps)
        self.apply(small_normal)

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a patch that the image fills; with `filling`, sizes are those of the pixels with it."""
        for size in sizes:
            if min(size) < self.patch:
                raise InputError(
                    f"an image of {size[0]} x {size[1]} pixels (height x width) for patches of {self.patch}; "
                    f"give at least {self.patch} x {self.patch}"
                )
        return Layout.of_grids([(height // self.patch, width // self.patch) for height, width in sizes])

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Embed the patches, hide those that no image fills, run the blocks, keep the others."""
        tiles, _, *room = pixels.values.shape
        sizes = pixels.sizes if pixels.sizes is not None else ((room[0], room[1]),) * tiles
        _check(sizes, tiles, (room[0], room[1]))
        whole = self.plan([(room[0], room[1])] * tiles) if self.filling else None
        layout = self.plan(sizes) if whole is None else self._begun(sizes, (room[0], room[1]))
        hidden = self.patches(pixels.values.to(self.patches.weight.dtype))
        numbers = self._numbers(layout, (hidden.shape[2], hidden.shape[3])).to(hidden.device)
        hidden = hidden.flatten(2).transpose(1, 2) + self.positions[numbers.clamp(min=0)]
        filled = numbers >= 0
        mask = None if layout.total == numbers.numel() else filled[:, None, None].expand(-1, 1, numbers.shape[1], -1)
        for block in self.blocks:
            hidden = block(hidden, mask=mask)
        kept = hidden.flatten(0, 1) if mask is None or whole is not None else hidden[filled]
        return VisualTokens.on_layout(self.post_norm(kept), whole or layout)

    def _begun(self, sizes: Sequence[Grid], room: Grid) -> Layout:
        """One token a patch of which an image fills any, of those that are whole in the room of its tile."""

        def count(side: int, most: int) -> int:
            return min(-(-side // self.patch), most // self.patch)

        return Layout.of_grids([(count(height, room[0]), count(width, room[1])) for height, width in sizes])

    def _numbers(self, layout: Layout, room: Grid) -> Int[Tensor, "T S"]:
        """Which learned position each patch of a tile takes; -1 where no image fills it."""
        numbers = torch.full((len(layout.grids), *room), -1)
        for tile, grid in zip(numbers, layout.grids, strict=True):
            assert grid is not None
            rows, columns = (buckets(count, self.side) for count in grid)
            tile[: grid[0], : grid[1]] = rows[:, None] * self.side + columns
        return numbers.flatten(1)


def buckets(count: int, side: int) -> Int[Tensor, " S"]:
    """In which of `side` equal parts of a line each of `count` patches begins.

    Every step is taken in float32, as when the weights were learned: a patch on a boundary falls where it fell then.
    """
    begins = (torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))).clamp(max=1.0 - 1e-6)
    return torch.bucketize(begins, torch.arange(1 / side, 1.0, 1 / side), right=True)


def _check(sizes: Sequence[Grid], tiles: int, room: Grid) -> None:
    if len(sizes) != tiles:
        raise InputError(f"{len(sizes)} sizes for {tiles} tiles; give each tile its own")
    for size in sizes:
        if size[0] > room[0] or size[1] > room[1]:
            raise InputError(
                f"an image of {size[0]} x {size[1]} pixels (height x width) in a tile of {room[0]} x {room[1]}; "
                "give the size of the pixels that are there"
            )
