"""Neighbours in a window that slides over the grid side by side in one token, then a linear map (WiCo, 2504.04024).

WiCo also tunes the encoder's last layers, so that what shares a window is alike: open these to training.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, VisualTokens
from foveal.layers.folding import runs
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """A `window` of rows and columns goes `stride` cells at a time (None: as far as it reaches, without overlap)."""

    window: Grid = (2, 2)
    stride: Grid | None = None
    bias: bool = True


class WindowConcat(nn.Module):
    """`features[S E]` on grids to one `[D]` a window, channels before cells as in WiCo.

    Raises InputError where tokens lie on no grid, and where windows do not end with it.
    """

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        window: Grid = (2, 2),
        stride: Grid | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.window, self.stride = window, stride or window
        if min(*self.window, *self.stride) < 1 or any(s > w for s, w in zip(self.stride, window, strict=True)):
            raise InputError(
                f"windows of {window[0]} x {window[1]} cells with strides of {self.stride[0]} and {self.stride[1]}; "
                "give strides from 1 to the window's sides, or cells are lost"
            )
        self.map = Linear(width_in * window[0] * window[1], width_out, bias=bias)

    def plan(self, layout: Layout) -> Layout:
        """A token for each window."""
        grids: list[Grid] = []
        for image, grid in enumerate(layout.grids):
            if grid is None:
                raise InputError(f"window_concat folds a grid, but the tokens of image {image} lie on none; use mlp")
            grids.append(self._windows(image, grid))
        frames = layout.frames or (1,) * len(grids)
        counts = tuple(rows * columns * number for (rows, columns), number in zip(grids, frames, strict=True))
        return replace(layout, counts=counts, grids=tuple(grids), slots=None)

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Take the windows of each grid, row by row, and map them."""
        layout, tiles = self.plan(visual.layout), visual.layout.by_frame()
        parts, boxes, mass, start = [], [], [], 0
        for grid, images in runs(tiles):
            own = slice(start, start + images * grid[0] * grid[1])
            start = own.stop
            parts.append(self._taken(visual.features[own].view(images, *grid, -1)))
            taken = self._taken(visual.boxes[own, :4].reshape(images, *grid, 4)).unflatten(1, (4, -1))
            boxes.append(torch.cat([taken[:, :2].amin(2), taken[:, 2:].amax(2)], dim=1))
            shared = visual.mass[own].view(images, *grid, 1) / self._cover(grid).to(visual.mass)
            mass.append(self._taken(shared).sum(1))
        made = VisualTokens.on_layout(self.map(torch.cat(parts)), layout)
        return replace(made, boxes=torch.cat(boxes), mass=torch.cat(mass))

    def _windows(self, image: int, grid: Grid) -> Grid:
        left = [(side - reach) % step for side, reach, step in zip(grid, self.window, self.stride, strict=True)]
        if any(left) or any(side < reach for side, reach in zip(grid, self.window, strict=True)):
            raise InputError(
                f"window_concat folds {self.window[0]} x {self.window[1]} cells, but the grid of image {image} is "
                f"{grid[0]} x {grid[1]} (rows x columns); take windows and strides that end with it, or another size"
            )
        rows, columns = (
            (side - reach) // step + 1 for side, reach, step in zip(grid, self.window, self.stride, strict=True)
        )
        return rows, columns

    def _taken(self, maps: Float[Tensor, "I R C E"]) -> Float[Tensor, "N K"]:
        (high, wide), (down, across) = self.window, self.stride
        return maps.unfold(1, high, down).unfold(2, wide, across).flatten(3).flatten(0, 2)

    def _cover(self, grid: Grid) -> Float[Tensor, "R C 1"]:
        """In how many windows each cell lies."""
        down, across = (
            sum((place >= begin) & (place < begin + reach) for begin in range(0, side - reach + 1, step))
            for place, side, reach, step in zip(map(torch.arange, grid), grid, self.window, self.stride, strict=True)
        )
        return (down[:, None] * across)[..., None].float()  # type: ignore[index]
