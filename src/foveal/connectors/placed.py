"""A linear map, a norm, places and a feed-forward: how Pix2Seq hands what it sees to its decoder (2109.10852)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, VisualTokens
from foveal.layers.linear import Linear
from foveal.layers.mlp import FeedForward
from foveal.layers.sines import grid


@dataclass(frozen=True, kw_only=True)
class Config:
    """`positions` are fixed codes of a token's cell, a table learned for one `grid`, or none; `inner` is the width of
    the feed-forward (0: none). With `class_token` the first token of each image has no place."""

    positions: Literal["none", "learned", "sin_cos"] = "sin_cos"
    grid: Grid | None = None
    class_token: bool = False
    inner: int = 0
    activation: str = "gelu"
    eps: float = 1e-6


class Placed(nn.Module):
    """`features[S E]` to `features[S D]`, token by token; raises InputError for tokens whose grid it cannot know."""

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        positions: Literal["none", "learned", "sin_cos"] = "sin_cos",
        grid: Grid | None = None,
        class_token: bool = False,
        inner: int = 0,
        activation: str = "gelu",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if positions == "learned" and grid is None:
            raise InputError("learned positions want the grid that they are for; give grid: [rows, columns]")
        self.placed, self.grid, self.class_token = positions != "none", grid, class_token
        self.map, self.norm = Linear(width_in, width_out), nn.LayerNorm(width_out, eps=eps)
        cells = grid[0] * grid[1] if grid is not None and positions == "learned" else 0
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(cells, width_out), std=0.02)) if cells else None
        self.feed_norm = nn.LayerNorm(width_out, eps=eps) if inner else None
        self.feed = FeedForward(width=width_out, inner=inner, activation=activation) if inner else None

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in."""
        tiles = layout.by_frame()
        for count, lies in zip(tiles.counts, tiles.grids, strict=True) if self.placed else ():
            self._cells(count, lies)
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Map, norm, add places, feed."""
        hidden = self.norm(self.map(visual.features))
        if self.placed:
            tiles = visual.layout.by_frame()
            pairs = zip(tiles.counts, tiles.grids, strict=True)
            hidden = hidden + torch.cat([self._codes(self._cells(*pair), hidden) for pair in pairs])
        if self.feed is not None and self.feed_norm is not None:
            hidden = hidden + self.feed(self.feed_norm(hidden))
        return visual.with_features(hidden)

    def _codes(self, cells: Grid, like: Tensor) -> Float[Tensor, "S D"]:
        codes = self.positions
        if codes is None:
            codes = grid(*cells, like.shape[-1], device=like.device).to(like.dtype)
        return torch.cat([codes.new_zeros(1, codes.shape[1]), codes]) if self.class_token else codes

    def _cells(self, count: int, lies: Grid | None) -> Grid:
        """The grid of an image: its own, or the one in the settings."""
        cells = lies or self.grid
        if cells is None or cells[0] * cells[1] + self.class_token != count:
            raise InputError(f"{count} visual tokens lie on no known grid; give the connector grid: [rows, columns]")
        if self.positions is not None and cells != self.grid:
            raise InputError(f"a grid of {cells} for positions learned on {self.grid}; resize the image")
        return cells
