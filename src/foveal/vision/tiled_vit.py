"""A vision transformer that reads all tiles of an image together: Llama 3.2 Vision's (Mllama; 2407.21783).

Its mask lets tiles of an image and the filling beside them see each other, so what fills an image up counts: absent
tiles, and tokens up to a multiple of eight, are run like the others. Only filling does not see filling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count as numbers
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.blocks import Block
from foveal.layers.gates import Gate
from foveal.layers.initial import small_normal

_WHOLE, _NONE = -1, (0, 0)  # the spot of a global view; an image of stand-ins alone
_ALIGNED = 8  # tokens of a tile are filled up to a multiple of this
_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the tower; the defaults are Llama 3.2 Vision's at 448 pixels.

    An image is up to `tiles` squares of `image_size`, arranged in one of the `ratios` (rows, columns), each of which
    has learned embeddings of its own. `depth` layers are followed by `global_depth` gated ones; the outputs of the
    layers `taps` (0 is the first layer) stand beside the last state, number by number.
    """

    width: int = 1280
    depth: int = 32
    global_depth: int = 8
    heads: int = 16
    inner: int = 5120
    patch: int = 14
    image_size: int = 448
    channels: int = 3
    tiles: int = 4
    ratios: tuple[Grid, ...] = _RATIOS
    taps: tuple[int, ...] = (3, 7, 15, 23, 30)
    activation: str = "gelu"
    eps: float = 1e-5


class ByRatio(nn.Module):
    """An embedding `[I N S E]` for each arrangement of tiles, `size` numbers a tile, behind a gate."""

    def __init__(self, *, ratios: int, tiles: int, size: int, width: int) -> None:
        super().__init__()
        self.table, self.gate = nn.Embedding(ratios + 1, tiles * size * width), Gate()
        self.shape = (tiles, size, width)

    def forward(self, ratio: Int[Tensor, " I"]) -> Float[Tensor, "I N S E"]:
        """As much of it as the gate lets through; 0 is no image, 1 the first ratio."""
        return self.gate(self.table(ratio)).unflatten(-1, self.shape)


class Arranged(NamedTuple):
    """Tiles of all images: where in the `[I N]` places each stands, which ratio an image has, which are its own."""

    places: Int[Tensor, " T"]
    ratio: Int[Tensor, " I"]
    shown: Bool[Tensor, "I N"]


class TiledVit(nn.Module):
    """Pixels to tokens of every tile: `tiles` times the patches and a class token, whatever the image fills.

    Those of absent tiles are `masked`. Raises InputError for tiles in no known arrangement, for too many of them, for
    other sizes, and for a width that the heads do not divide.
    """

    reads_tiles = True
    on_grid = False  # which its tokens lie on

    def __init__(
        self,
        *,
        width: int = 1280,
        depth: int = 32,
        global_depth: int = 8,
        heads: int = 16,
        inner: int = 5120,
        patch: int = 14,
        image_size: int = 448,
        channels: int = 3,
        tiles: int = 4,
        ratios: tuple[Grid, ...] = _RATIOS,
        taps: tuple[int, ...] = (3, 7, 15, 23, 30),
        activation: str = "gelu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(depth=depth, taps=taps, tiles=tiles, ratios=ratios)
        self.tiles, self.ratios, self.taps, self.image_size = tiles, ratios, taps, image_size
        self.side, self.width = image_size // patch, width * (1 + len(taps))
        self.size = self.side**2 + 1
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(self.size, width) * width**-0.5)
        sizes = {"ratios": len(ratios), "tiles": tiles, "width": width}
        self.tile_positions = ByRatio(size=self.size, **sizes)
        self.before, self.after = ByRatio(size=1, **sizes), ByRatio(size=1, **sizes)
        self.pre_norm, self.post_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = {"width": width, "heads": heads, "inner": inner, "activation": activation, "eps": eps, "bias": False}
        self.blocks = nn.ModuleList(Block(**parts) for _ in range(depth))
        self.global_blocks = nn.ModuleList(Block(**parts, gate=math.pi / 4) for _ in range(global_depth))
        self.apply(small_normal)

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """As many tokens for each image as it could have; they lie on no grid."""
        for size in sizes:
            if size != (self.image_size, self.image_size):
                raise InputError(
                    f"a tile of {size[0]} x {size[1]} pixels (height x width) for a tower of tiles of "
                    f"{self.image_size} x {self.image_size}; cut the image to these"
                )
        return Layout(counts=(self.tiles * self.size,) * len(sizes), grids=(None,) * len(sizes))

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Embed the tiles where they lie, run the layers over each image, gather what is tapped."""
        size = (pixels.values.shape[-2], pixels.values.shape[-1])
        arranged = self._arranged(pixels)
        layout = self.plan([size] * len(arranged.ratio))
        hidden = F.pad(self._embedded(pixels.values, arranged), (0, 0, 0, -self.size % _ALIGNED))
        seen = self._states(hidden, arranged)[:, :, : self.size].flatten(0, 2)
        visual = VisualTokens.on_layout(seen, layout)
        shown = arranged.shown[..., None].expand(-1, -1, self.size).flatten()
        boxes = self._boxes(arranged.ratio.tolist()).to(visual.boxes)
        return replace(visual, boxes=boxes, masked=None if bool(shown.all()) else ~shown)

    def _embedded(self, values: Float[Tensor, "T C H W"], arranged: Arranged) -> Float[Tensor, "I N S E"]:
        images, tiles = arranged.shown.shape
        hidden = self.patches(values.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        absent = hidden.new_zeros(images * tiles, *hidden.shape[1:])  # black tiles: the patches have no bias
        hidden = absent.index_copy(0, arranged.places, hidden).unflatten(0, (images, tiles))
        hidden = hidden + self.before(arranged.ratio)
        hidden = torch.cat([self.class_token.expand(images, tiles, 1, -1), hidden], dim=2)
        hidden = hidden + (1 - self.tile_positions.gate.opening) * self.positions
        return self.pre_norm(hidden + self.tile_positions(arranged.ratio))

    def _states(self, hidden: Float[Tensor, "I N P E"], arranged: Arranged) -> Float[Tensor, "I N P F"]:
        """The last state and the tapped ones of all tokens, the filling among them."""
        own = torch.arange(hidden.shape[2], device=hidden.device) < self.size
        filling = ~(arranged.shown[..., None] & own).flatten(1)
        hides = (filling[:, :, None] & filling[:, None])[:, None]
        # what is added to the scores, once for all layers: attention makes it of a mask of truths in every one
        mask = hidden.new_zeros(hides.shape).masked_fill(hides, float("-inf"))
        shape, hidden = hidden.shape, hidden.flatten(1, 2)
        tapped = {}
        for depth, block in enumerate(self.blocks):
            hidden = block(hidden, mask=mask)
            tapped[depth] = hidden
        hidden = self.post_norm(hidden).view(shape) + self.after(arranged.ratio)
        hidden = hidden.flatten(1, 2)
        for block in self.global_blocks:
            hidden = block(hidden, mask=mask)
        beside = [tapped[depth] for depth in self.taps]
        every = torch.cat([hidden, torch.stack(beside, dim=-1).flatten(-2)], dim=-1) if beside else hidden
        return every.unflatten(1, shape[1:3])

    def _arranged(self, pixels: Pixels) -> Arranged:
        """Where each tile belongs; an image is as many rows and columns as its tiles need."""
        spots = pixels.tile.tolist()
        owners = pixels.image.tolist() if pixels.frames is None else list(range(len(spots)))
        mine: list[list[int]] = [[] for _ in range(1 + max(owners, default=-1))]
        for tile, owner in enumerate(owners):
            mine[owner].append(tile)
        places, grids = [0] * len(owners), []
        for image, tiles in enumerate(mine):
            grid, order = _grid([spots[tile] for tile in tiles])
            if len(tiles) > self.tiles or (grid != _NONE and grid not in self.ratios):
                raise InputError(
                    f"an image of {len(tiles)} tiles in {grid[0]} rows of {grid[1]} for a tower of up to {self.tiles}, "
                    f"arranged as one of {', '.join(f'{r} x {c}' for r, c in self.ratios)}; cut it so"
                )
            grids.append(grid)
            for tile, place in zip(tiles, order, strict=True):
                places[tile] = image * self.tiles + place
        ratio = [0 if grid == _NONE else 1 + self.ratios.index(grid) for grid in grids]
        counts = torch.tensor([max(1, rows * columns) for rows, columns in grids], dtype=torch.long)
        device = pixels.values.device
        return Arranged(
            places=torch.tensor(places, dtype=torch.long, device=device),
            ratio=torch.tensor(ratio, dtype=torch.long, device=device),
            shown=(torch.arange(self.tiles) < counts[:, None]).to(device),
        )

    def _boxes(self, ratio: Sequence[int]) -> Float[Tensor, "S 4"]:
        """Where each token lies in its image's tiles; the class token has its whole tile, absent ones the image."""
        patches = VisualTokens.on_layout(torch.zeros(self.size - 1, 0), Layout.of_grids([(self.side, self.side)])).boxes
        tile = torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), patches])
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(ratio), self.tiles, self.size, 1)
        for image, number in enumerate(ratio):
            rows, columns = self.ratios[number - 1] if number else (1, 1)
            for place in range(rows * columns):
                corner = torch.tensor([place % columns, place // columns] * 2)
                boxes[image, place] = (tile + corner) / torch.tensor([columns, rows] * 2)
        return boxes.flatten(0, 2)


def _grid(spots: Sequence[Sequence[int]]) -> tuple[Grid, list[int]]:
    """The rows and columns that tiles at these spots fill, and each one's place: stand-ins follow the others."""
    real = [(max(row, 0), max(column, 0)) for row, column in spots if row >= _WHOLE]
    rows, columns = (1 + max((spot[axis] for spot in real), default=-1) for axis in (0, 1))
    if sorted(real) != [(row, column) for row in range(rows) for column in range(columns)]:
        raise InputError(f"{len(real)} tiles do not fill {rows} rows of {columns}; give each tile of the image once")
    later = numbers(len(real))
    return (rows, columns), [
        next(later) if row < _WHOLE else max(row, 0) * columns + max(column, 0) for row, column in spots
    ]


def _check(*, depth: int, taps: Sequence[int], tiles: int, ratios: Sequence[Grid]) -> None:
    for tap in taps:
        if not 0 <= tap < depth:
            raise InputError(f"taps has {tap}, but the tower has {depth} layers; give 0 to {depth - 1}")
    for rows, columns in ratios:
        if rows * columns > tiles:
            raise InputError(f"a ratio of {rows} x {columns} for up to {tiles} tiles; raise tiles, or leave it out")
