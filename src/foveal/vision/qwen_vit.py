"""A vision transformer for images and videos of any shape, packed end to end.

Qwen2-VL's (2409.12191), Qwen2.5-VL's (2502.13923) and that of Ovis 2.5 (2508.11737), whose blocks see windows,
Qwen3-VL's, and SigLIP 2's at native aspect ratio (2502.14786).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.kept import kept
from foveal.core.types import Grid, Layout, Patches, Pixels, VisualTokens
from foveal.layers.blocks import Block
from foveal.layers.folding import runs
from foveal.layers.initial import small_normal
from foveal.layers.linear import linear
from foveal.layers.norms import NormKind, norms
from foveal.layers.patching import grid_of, patched
from foveal.layers.rotary import Rope, inverse_frequencies, tables

Stretch = Literal["bilinear", "bicubic", "antialiased"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the tower; the defaults are Qwen2-VL's.

    A patch is as deep as so many `frames` of a video; an image stands for all of them. Heads turn by row and column,
    with a `base` (None: they do not); `positions` of a learned square grid of that side are stretched to an image's own
    (0: there are none), from corner to corner, or `bicubic` from edge to edge, or `antialiased` (linear) from edge to
    edge. `levels` are further depths, kept beside the features: 1 is the output of the first block. With a `window` a
    patch sees those of its square of so many alone, but for the blocks `whole`, counted as levels are. `last_norm`
    norms the last state. All norms are of the kind `norm`, and the feed-forwards may be `gated` (SwiGLU).
    """

    width: int = 1280
    depth: int = 32
    heads: int = 16
    inner: int = 5120
    patch: int = 14
    frames: int = 2
    channels: int = 3
    patch_bias: bool = False
    activation: str = "quick_gelu"
    eps: float = 1e-6
    base: float | None = 10000.0
    positions: int = 0
    levels: tuple[int, ...] = ()
    stretch: Stretch = "bilinear"
    window: int = 0
    whole: tuple[int, ...] = ()
    last_norm: bool = False
    norm: NormKind = later("layer")
    gated: bool = later(False)


class QwenVit(nn.Module):
    """Patches, or pixels that are cut into such, to the last state of each, in raster order, time after time.

    Each time of each image sees itself alone. Raises InputError for heads that do not divide the width (into fours
    where they turn), for levels and whole blocks that the tower lacks, and for sizes that patches do not fill.
    """

    reads_frames = True  # joins those of a video itself, and takes patches

    def __init__(
        self,
        *,
        width: int = 1280,
        depth: int = 32,
        heads: int = 16,
        inner: int = 5120,
        patch: int = 14,
        frames: int = 2,
        channels: int = 3,
        patch_bias: bool = False,
        activation: str = "quick_gelu",
        eps: float = 1e-6,
        base: float | None = 10000.0,
        positions: int = 0,
        levels: tuple[int, ...] = (),
        stretch: Stretch = "bilinear",
        window: int = 0,
        whole: tuple[int, ...] = (),
        last_norm: bool = False,
        norm: NormKind = "layer",
        gated: bool = False,
    ) -> None:
        super().__init__()
        _check(width=width, heads=heads, turned=base is not None, depth=depth, levels=levels, whole=whole)
        self.stretch: Stretch = stretch
        self.window, self.whole = window, whole
        self.width, self.patch, self.frames, self.head_width = width, patch, frames, width // heads
        self.levels, self.level_widths, self.base, self.side = levels, (width,) * len(levels), base, positions
        self.patches = nn.Conv3d(
            channels, width, (frames, patch, patch), stride=(frames, patch, patch), bias=patch_bias
        )
        self.positions = nn.Parameter(torch.randn(positions**2, width) * 0.02) if positions else None
        block = partial(Block, width=width, heads=heads, inner=inner, activation=activation, eps=eps)
        self.blocks = nn.ModuleList(block(norm=norm, gated=gated) for _ in range(depth))
        self.post_norm = norms(norm, eps=eps)(width) if last_norm else None
        self.apply(small_normal)

    def plan(self, sizes: Sequence[Grid], frames: tuple[int, ...] | None = None) -> Layout:
        """One token a patch; as many of the sizes in a row as `frames` say are those of one video."""
        grids, times, begin = [], [], 0
        for number in frames or (1,) * len(sizes):
            own = set(sizes[begin : begin + number])
            if len(own) > 1:
                raise InputError(f"a video with frames of {min(own)} to {max(own)} pixels; bring them to one size")
            times.append(-(-number // self.frames))
            grids += [self._grid(size) for size in own] * times[-1]
            begin += number
        return Layout.of_grids(grids).filmed(tuple(times))

    def forward(self, pixels: Pixels | Patches) -> VisualTokens:
        """Embed, place, run the blocks, keep the levels."""
        given = pixels if isinstance(pixels, Patches) else self.cut(pixels)
        states = self.states(given, {*self.levels, len(self.blocks)})
        last = states[len(self.blocks)]
        features = last if self.post_norm is None else self.post_norm(last)
        return VisualTokens.on_layout(features, given.layout, tuple(states[depth] for depth in self.levels))

    def states(self, given: Patches, depths: Collection[int]) -> dict[int, Float[Tensor, "N E"]]:
        """The states at these depths, row by row and without the last norm; 0 is what the first block reads."""
        by_frame = given.layout.by_frame()
        hidden = self._embedded(given, by_frame)
        order, stretches = _windows(by_frame, self.window) if self.window else (None, by_frame.counts)
        rotary = None if self.base is None else self._rotary(self.base, hidden, by_frame, order)
        hidden = (hidden if order is None else hidden[order.to(hidden.device)])[None]
        kept = {0: hidden[0]} if 0 in depths else {}
        for depth, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, rotary=rotary, lengths=by_frame.counts if depth in self.whole else stretches)
            if depth in depths:
                kept[depth] = hidden[0]
        back = slice(None) if order is None else order.argsort().to(hidden.device)
        return {depth: state[back] for depth, state in kept.items()}

    def _embedded(self, given: Patches, by_frame: Layout) -> Float[Tensor, "N E"]:
        weight = self.patches.weight.flatten(1)
        if given.values.shape[1] != weight.shape[1]:
            raise InputError(
                f"patches of {given.values.shape[1]} values for a vit that reads {weight.shape[1]}, "
                f"{self.frames} frames of {self.patch} x {self.patch} pixels; cut images for this model"
            )
        hidden = linear(given.values.to(weight.dtype), weight, self.patches.bias)
        if given.block > 1:
            hidden = hidden[_unblocked(by_frame, given.block).to(hidden.device)]
        return hidden if self.positions is None else hidden + self._places(by_frame)

    def cut(self, pixels: Pixels) -> Patches:
        """Patches of pictures, and of the frames of videos; the last frame is seen again where some lack."""
        tiles, _, *room = pixels.values.shape
        sizes, parts, grids, begin = pixels.sizes or ((room[0], room[1]),) * tiles, [], [], 0
        for number in pixels.frames or (1,) * tiles:
            height, width = sizes[begin]
            self._grid((height, width))
            own = pixels.values[begin : begin + number, :, :height, :width]
            part, grid = patched(own, patch=self.patch, frames=self.frames)
            parts.append(part)
            grids.append(grid)
            begin += number
        empty = pixels.values.new_zeros(0, self.patches.weight[0].numel())
        return Patches(values=torch.cat(parts) if parts else empty, grids=tuple(grids))

    def _rotary(self, base: float, hidden: Tensor, layout: Layout, order: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the row and the column of each patch, in this order."""
        half = inverse_frequencies(self.head_width // 2, Rope(base=base), device=hidden.device)
        turns = torch.arange(2, device=hidden.device).repeat_interleave(len(half))
        spots = _spots(layout)
        spots = (spots if order is None else spots[order]).to(hidden.device)[None]
        return tables(spots, half.repeat(2), dtype=torch.promote_types(hidden.dtype, torch.float32), turns=turns)

    def _places(self, layout: Layout) -> Float[Tensor, "N E"]:
        """The learned grid stretched to that of each frame."""
        assert self.positions is not None
        table, parts = self.positions.T.unflatten(1, (self.side, self.side))[None], []
        for grid, images in runs(layout):
            own = table if grid == (self.side, self.side) else _stretched(table, grid, self.stretch)
            parts.append(own[0].flatten(1).T.repeat(images, 1))
        return torch.cat(parts) if parts else self.positions[:0]

    def _grid(self, size: Grid) -> Grid:
        return grid_of(size, self.patch)


def _stretched(table: Float[Tensor, "1 E R C"], grid: Grid, stretch: Stretch = "bilinear") -> Float[Tensor, "1 E h w"]:
    if stretch == "antialiased":  # torch has no such stretch of half precision on processors
        wide = F.interpolate(table.float(), size=grid, mode="bilinear", align_corners=False, antialias=True)
        return wide.to(table.dtype)
    return F.interpolate(table, size=grid, mode=stretch, align_corners=stretch == "bilinear")


@kept(64)
def _spots(layout: Layout) -> Int[Tensor, "N 2"]:
    """Row and column of each patch."""
    parts = []
    for (rows, columns), images in runs(layout):
        ranges = torch.arange(rows), torch.arange(columns)
        parts.append(torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).view(-1, 2).repeat(images, 1))
    return torch.cat(parts) if parts else torch.zeros(0, 2, dtype=torch.long)


@kept(64)
def _windows(layout: Layout, side: int) -> tuple[Int[Tensor, " N"], tuple[int, ...]]:
    """The patches of each frame window by window, row by row in each, and how many each window holds."""
    parts, begin = [], 0
    for grid in layout.grids:
        assert grid is not None
        cells = torch.arange(begin, begin + grid[0] * grid[1]).view(grid)
        parts += [window.flatten() for rows in cells.split(side) for window in rows.split(side, dim=1)]
        begin += cells.numel()
    order = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
    return order, tuple(len(part) for part in parts)


@kept(64)
def _unblocked(layout: Layout, block: int) -> Int[Tensor, " N"]:
    """Where the patches of each frame stand, row by row, among those that come block by block."""
    parts, begin = [], 0
    for (rows, columns), images in runs(layout):
        if rows % block or columns % block:
            raise InputError(
                f"patches in blocks of {block} x {block} on a grid of {rows} x {columns} (rows x columns); "
                f"give grids whose sides divide by {block}"
            )
        order = torch.arange(rows * columns * images).view(images, rows // block, columns // block, block, block)
        parts.append(begin + order.transpose(2, 3).flatten())
        begin += rows * columns * images
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def _check(*, width: int, heads: int, turned: bool, depth: int, levels: Sequence[int], whole: Sequence[int]) -> None:
    parts = 4 * heads if turned else heads
    if width % parts:
        way = " that turn by row and by column" if turned else ""
        raise InputError(
            f"a qwen_vit of width {width} cannot split it over {heads} heads{way}; give a multiple of {parts}"
        )
    for name, level in (*(("levels", one) for one in levels), *(("whole", one) for one in whole)):
        if not 1 <= level <= depth:
            raise InputError(f"qwen_vit {name} has {level}, but the tower has {depth} blocks; give 1 to {depth}")
