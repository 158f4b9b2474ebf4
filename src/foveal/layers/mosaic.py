"""Tiles of an image put together again: in what order their tokens stand, and what stands between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Cut, Grid, Layout, VisualTokens

_ROOM = 1.1  # a field of tokens is shrunk where it is so many times too long (LLaVA-OneVision, 2408.03326)
_WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """The tiles of an image stand one after the other, or their tokens in a `raster` as if the image had been whole.

    A raster leaves out the padding of an image, and one of more tokens than `most` tiles have is shrunk to these. A
    learned `newline` ends each row (of tokens in a raster, of tiles else) and what has no rows; a learned `comma` parts
    the tiles of a row. Each side of a video's frames is shrunk by `film`. With `positions` each tile is told its row
    and column, of up to so many, and a view that it is one.
    """

    order: Literal["tiles", "raster"] = "tiles"
    newline: bool = False
    comma: bool = False
    most: int | None = None
    film: int = 1
    positions: Grid | None = None


class Joined(nn.Module):
    """Tokens of tiles, `features[S D]` on the layout of tiles, to those of images, and their `levels` as they are.

    What is learned adds nothing to a level: positions are those of features, and what stands between is 0 there.

    Raises InputError for tiles of one image that differ, for those on no grid where a raster wants one, for a shrinking
    below 1, and for more rows or columns than there are `positions`.
    """

    def __init__(self, *, width: int, settings: Mosaic | None = None) -> None:
        super().__init__()
        self.width, self.settings = width, (settings := settings or Mosaic())
        if settings.film < 1 or (settings.most is not None and settings.most < 1):
            raise InputError(f"a mosaic of film {settings.film} and most {settings.most}; give 1 or more")
        if settings.comma and settings.order == "raster":
            raise InputError("a raster has rows of tokens and no tiles for a comma to part; take order: tiles")

        def learned(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.normal_(torch.empty(*shape, width), std=width**-0.5))

        self.newline = learned() if settings.newline else None
        self.comma = learned() if settings.comma else None
        rows, columns = settings.positions or (0, 0)
        self.rows, self.columns = (learned(rows), learned(columns)) if rows else (None, None)
        self.view = learned() if rows else None

    def plan(self, layout: Layout, cuts: Sequence[Cut]) -> Layout:
        """The layout of images that are cut so, out of that of their tiles."""
        counts, grids = [], []
        for cut, (begin, end) in zip(cuts, spans(cuts), strict=True):
            each = {*zip(layout.counts[begin:end], layout.grids[begin:end], strict=True)}
            if len(each) != 1:
                raise InputError(f"{len(each)} kinds of tiles in an image of {cut.tiles}; give all one size")
            count, cells = each.pop()
            self._check(cut, cells)
            counts.append(self._count(cut, count, cells))
            grids.append(cells if cut.tiles == 1 and counts[-1] == count else None)
        return Layout(counts=tuple(counts), grids=tuple(grids))

    def forward(self, tiles: VisualTokens, cuts: Sequence[Cut]) -> VisualTokens:
        """Place, unpad, shrink, put between."""
        layout, offsets = self.plan(tiles.layout, cuts), tiles.layout.offsets
        given = (tiles.features, *tiles.levels)
        parts = []
        for cut, (begin, end) in zip(cuts, spans(cuts), strict=True):
            own = slice(offsets[begin], offsets[end])
            count, cells = tiles.layout.counts[begin], tiles.layout.grids[begin]
            boxes, mass, features, *levels = (
                part[own].unflatten(0, (cut.tiles, count)) for part in (tiles.boxes, tiles.mass, *given)
            )
            rows = _beside([self._placed(features, cut), *levels])
            parts.append(self._image(rows, boxes[..., :4], mass, cut=cut, cells=cells))
        empty = (_beside(given)[:0], tiles.boxes[:0], tiles.mass[:0])
        rows, boxes, mass = (torch.cat(some) for some in (zip(*parts, strict=True) if parts else zip(empty)))
        features, *levels = rows.split([part.shape[1] for part in given], dim=1)
        plain = VisualTokens.on_layout(features, layout, tuple(levels))
        classes = tiles.classes if self._in_order else None
        frame = _frames(cuts, layout).to(features.device) if any(cut.frames for cut in cuts) else None
        return replace(plain, boxes=boxes, mass=mass, frame=frame, classes=classes, marks=tiles.marks)

    @property
    def _in_order(self) -> bool:
        """Whether the tokens of the tiles stand as they come, and nothing between them."""
        s = self.settings
        return s.order == "tiles" and s.film == 1 and not s.newline and not s.comma

    def _check(self, cut: Cut, cells: Grid | None) -> None:
        raster = self.settings.order == "raster" and cut.grid != (0, 0)
        if cells is None and (raster or (cut.frames and self.settings.film > 1)):
            raise InputError(
                "tokens of tiles lie on no grid to be put into a raster or shrunk; take a connector that keeps it, or "
                "order: tiles and film: 1"
            )
        if self.settings.positions is not None and any(
            mine > most for mine, most in zip(cut.grid, self.settings.positions, strict=True)
        ):
            raise InputError(
                f"{cut.grid[0]} x {cut.grid[1]} tiles (rows x columns) for positions of up to "
                f"{' x '.join(map(str, self.settings.positions))}; raise mosaic.positions, or cut into fewer"
            )

    def _count(self, cut: Cut, count: int, cells: Grid | None) -> int:
        newline, comma = self.newline is not None, self.comma is not None
        if cut.frames:
            small = count if self.settings.film == 1 else math.prod(self._frame(cells))
            return cut.frames * small + newline
        view = count if cut.view != "none" else 0
        rows, columns = cut.grid
        if not rows:
            return view + (newline and not cut.plain)
        if self.settings.order == "raster":
            rows, columns = self._field(cut, cells)[1]
            return view + rows * (columns + newline)
        return view + rows * (columns * count + newline + comma * (columns - 1))

    def _frame(self, cells: Grid | None) -> Grid:
        assert cells is not None
        return math.ceil(cells[0] / self.settings.film), math.ceil(cells[1] / self.settings.film)

    def _field(self, cut: Cut, cells: Grid | None) -> tuple[tuple[slice, slice], Grid]:
        """Which rows and columns of a raster are the image's, and how many are left of them after shrinking."""
        assert cells is not None
        whole = cut.grid[0] * cells[0], cut.grid[1] * cells[1]
        kept = unpadded(cut.size, whole) if cut.padded else (slice(0, whole[0]), slice(0, whole[1]))
        rows, columns = (part.stop - part.start for part in kept)
        if self.settings.most is not None:
            excess = math.sqrt(rows * columns / (self.settings.most * cells[0] * cells[1]))
            if excess > _ROOM:
                rows, columns = int(rows // excess), int(columns // excess)
                if not rows or not columns:
                    raise InputError(
                        f"an image of {cut.size[0]} x {cut.size[1]} pixels (height x width) is too long and thin: "
                        f"shrunk to {self.settings.most} tiles it would have {rows} x {columns} tokens; crop it"
                    )
        return kept, (rows, columns)

    def _placed(self, features: Float[Tensor, "T N D"], cut: Cut) -> Float[Tensor, "T N D"]:
        if self.rows is None or self.columns is None or self.view is None or cut.plain:
            return features
        rows, columns, view = self.rows, self.columns, self.view
        places = [view if spot[0] < 0 else rows[spot[0]] + columns[spot[1]] for spot in cut.spots]
        return features + torch.stack(places)[:, None]

    def _image(
        self,
        features: Float[Tensor, "T N D"],
        boxes: Float[Tensor, "T N 4"],
        mass: Float[Tensor, "T N"],
        *,
        cut: Cut,
        cells: Grid | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, boxes and mass of one image's tokens."""
        if cut.frames:
            film = self._film(features, boxes, mass, cells)
            return _joined([film, *self._between(self.newline, _WHOLE, features)])
        parts = [(features[i], boxes[i], mass[i]) for i in range(cut.tiles)]
        views = [parts.pop(0 if cut.view == "first" else -1)] if cut.view != "none" else []
        if not parts:
            return _joined([*views, *self._between(None if cut.plain else self.newline, _WHOLE, features)])
        field = self._raster(parts, cut, cells) if self.settings.order == "raster" else self._tiles(parts, cut)
        return _joined([*views, *field] if cut.view == "first" else [*field, *views])

    def _tiles(self, parts: Sequence[tuple[Tensor, ...]], cut: Cut) -> list[tuple[Tensor, ...]]:
        rows, columns = cut.grid
        made = []
        for row in range(rows):
            for column in range(columns):
                features, boxes, mass = parts[row * columns + column]
                corner, whole = boxes.new_tensor([column, row] * 2), boxes.new_tensor([columns, rows] * 2)
                made.append((features, (boxes + corner) / whole, mass))
                if column + 1 < columns:
                    edge = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
                    made += self._between(self.comma, edge, features)
            made += self._between(self.newline, (0.0, row / rows, 1.0, (row + 1) / rows), features)
        return made

    def _raster(self, parts: Sequence[tuple[Tensor, ...]], cut: Cut, cells: Grid | None) -> list[tuple[Tensor, ...]]:
        (high, wide), (rows, columns) = self._field(cut, cells)
        assert cells is not None

        def laid(given: Float[Tensor, "T N *D"]) -> Float[Tensor, "R C D"]:
            tiles = given.reshape(*cut.grid, *cells, -1)
            whole = tiles.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)[high, wide]
            return whole if whole.shape[:2] == (rows, columns) else _shrunk(whole[None], (rows, columns))[0]

        features, mass = (laid(torch.stack([part[i] for part in parts])) for i in (0, 2))
        lost = (high.stop - high.start) * (wide.stop - wide.start) / max(1, rows * columns)
        boxes, mass = _boxes((rows, columns)).to(features.device), mass[..., 0] * lost
        if self.newline is not None:
            ends = torch.arange(rows, device=boxes.device) / max(1, rows)
            line = torch.stack([ends * 0, ends, ends * 0 + 1, ends + 1 / max(1, rows)], dim=1)
            features = torch.cat([features, _widened(self.newline, features).expand(rows, 1, -1)], dim=1)
            boxes, mass = torch.cat([boxes, line[:, None]], dim=1), F.pad(mass, (0, 1))
        return [(features.flatten(0, 1), boxes.flatten(0, 1), mass.flatten())]

    def _film(self, features: Tensor, boxes: Tensor, mass: Tensor, cells: Grid | None) -> tuple[Tensor, ...]:
        if self.settings.film > 1:
            assert cells is not None
            small = self._frame(cells)
            lost = math.prod(cells) / math.prod(small)
            features = _shrunk(features.unflatten(1, cells), small).flatten(1, 2)
            mass = _shrunk(mass.view(-1, *cells, 1), small).flatten(1) * lost
            boxes = _boxes(small).flatten(0, 1).to(boxes).expand(len(features), -1, -1)
        return features.flatten(0, 1), boxes.flatten(0, 1), mass.flatten()

    def _between(
        self, token: Tensor | None, box: tuple[float, ...], like: Float[Tensor, "*N D"]
    ) -> list[tuple[Tensor, ...]]:
        if token is None:
            return []
        box_of = torch.tensor([box], device=like.device)
        return [(_widened(token, like)[None], box_of, torch.zeros(1, device=like.device))]


def spans(cuts: Sequence[Cut]) -> list[tuple[int, int]]:
    """Where the tiles of each image begin and end among all."""
    made, begin = [], 0
    for cut in cuts:
        made.append((begin, begin + cut.tiles))
        begin += cut.tiles
    return made


def unpadded(size: Grid, field: Grid) -> tuple[slice, slice]:
    """The rows and columns of a field that an image of this size, fitted into its middle, fills (LLaVA-NeXT's rule)."""
    (height, width), (rows, columns) = size, field
    if width / height > columns / rows:
        margin = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(margin, rows - margin), slice(0, columns)
    margin = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(0, rows), slice(margin, columns - margin)


def _shrunk(fields: Float[Tensor, "T R C D"], size: Grid) -> Float[Tensor, "T r c D"]:
    whole = fields.permute(0, 3, 1, 2)
    return F.interpolate(whole, size=size, mode="bilinear").permute(0, 2, 3, 1)


def _boxes(grid: Grid) -> Float[Tensor, "R C 4"]:
    if 0 in grid:
        return torch.zeros(*grid, 4)
    return VisualTokens.on_layout(torch.zeros(grid[0] * grid[1], 0), Layout.of_grids([grid])).boxes.view(*grid, 4)


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Features and the levels beside them in one row."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-1)


def _widened(token: Float[Tensor, " D"], like: Float[Tensor, "*N W"]) -> Float[Tensor, " W"]:
    """A learned token as such a row: 0 in the levels, so that none is added in its place."""
    return F.pad(token.to(like.dtype), (0, like.shape[-1] - len(token)))


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    features, boxes, mass = (torch.cat(some) for some in zip(*parts, strict=True))
    return features, boxes, mass


def _frames(cuts: Sequence[Cut], layout: Layout) -> Tensor:
    """The number of the frame of each token: what follows a video belongs to its last."""
    numbers = []
    for cut, count in zip(cuts, layout.counts, strict=True):
        each = count // max(1, cut.frames)
        numbers.append((torch.arange(count) // each).clamp(max=cut.frames - 1) if cut.frames else torch.zeros(count))
    return torch.cat(numbers).long()
