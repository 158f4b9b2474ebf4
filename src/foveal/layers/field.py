"""Tiles of an image on one fine grid, where what was not encoded finely is what the view of the whole says there.

So an image in tiles is a grid like any other for who spends a budget: coarse where the view was enough, fine where
tiles were read.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.types import Cut, Grid, Layout, VisualTokens
from foveal.layers.mosaic import spans, unpadded

Shown = tuple[slice, slice]  # rows and columns of all tiles' cells that the image fills


def shown(cut: Cut, cells: Grid) -> Shown:
    """What of the tiles' cells side by side is the image and no padding; of a sliver thinner than a cell, that cell."""
    whole = cut.grid[0] * cells[0], cut.grid[1] * cells[1]
    rows, columns = unpadded(cut.size, whole) if cut.padded else (slice(0, whole[0]), slice(0, whole[1]))
    return slice(rows.start, max(rows.stop, rows.start + 1)), slice(columns.start, max(columns.stop, columns.start + 1))


def field(cut: Cut, cells: Grid) -> Grid:
    """Rows and columns of an image whose tiles have such cells; in one tile alone, that tile's own."""
    if cut.grid == (0, 0):
        return cells
    rows, columns = shown(cut, cells)
    return rows.stop - rows.start, columns.stop - columns.start


def fields(layout: Layout, cuts: Sequence[Cut], joined: Layout, budget: int) -> Layout:
    """The layout on which a budget is spent, out of that of all tiles and that of the images `joined` from them.

    What is within the budget, videos, and what lies on no grid stay as they are joined.
    """
    counts, grids = list(joined.counts), list(joined.grids)
    for i, (cut, (begin, _)) in enumerate(zip(cuts, spans(cuts), strict=True)):
        cells = layout.grids[begin]
        if counts[i] > budget and cells is not None and not cut.frames:
            rows, columns = field(cut, cells)
            grids[i], counts[i] = (rows, columns), rows * columns
    return Layout(counts=tuple(counts), grids=tuple(grids))


def laid(
    tiles: VisualTokens, cuts: Sequence[Cut], joined: VisualTokens, there: Float[Tensor, " T"], *, budget: int
) -> VisualTokens:
    """The tokens on that layout; of the tiles only those that are `there` (1, else 0) have been encoded.

    A gradient of `there` is what each cell would gain by what its tile shows and the view does not.
    """
    layout, offsets = fields(tiles.layout, cuts, joined.layout, budget), joined.layout.offsets
    rows, whole = packed(tiles), packed(replace(joined, classes=_classes(tiles, cuts, joined)))
    parts = []
    for i, (cut, (begin, end)) in enumerate(zip(cuts, spans(cuts), strict=True)):
        cells = tiles.layout.grids[begin]
        if layout.grids[i] == joined.layout.grids[i] and layout.counts[i] == joined.layout.counts[i]:
            parts.append(tuple(part[offsets[i] : offsets[i + 1]] for part in (whole, joined.boxes)))
            continue
        assert cells is not None
        own = slice(tiles.layout.offsets[begin], tiles.layout.offsets[end])
        made = _image(rows[own].unflatten(0, (cut.tiles, -1)), there[begin:end], cut, cells)
        parts.append((made, VisualTokens.on_layout(made, Layout.of_grids([field(cut, cells)])).boxes))
    rows, boxes = (torch.cat(some) for some in zip(*parts, strict=True))
    return replace(unpacked(rows, layout, like=tiles), boxes=boxes)


def _classes(tiles: VisualTokens, cuts: Sequence[Cut], joined: VisualTokens) -> Float[Tensor, "S N"] | None:
    """What joined images show, each for itself: what is told of them or of their only tile, else zeros, which tell
    nothing.
    """
    if tiles.classes is None or joined.classes is not None:
        return joined.classes
    parts, offsets = [], tiles.layout.offsets
    for count, (begin, end) in zip(joined.layout.counts, spans(cuts), strict=True):
        only = tiles.classes[offsets[begin] : offsets[end]]
        parts.append(only if end - begin == 1 and len(only) == count else only.new_zeros(count, only.shape[1]))
    return torch.cat(parts)


def packed(seen: VisualTokens) -> Float[Tensor, "S W"]:
    """All that tokens say in one row: features, levels, and classes where there are any."""
    parts = [seen.features, *seen.levels, *([] if seen.classes is None else [seen.classes])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def unpacked(rows: Float[Tensor, "S W"], layout: Layout, *, like: VisualTokens) -> VisualTokens:
    """Tokens out of such rows, of the widths and with the marks of others."""
    widths = [part.shape[1] for part in (like.features, *like.levels)]
    features, *levels, classes = rows.split([*widths, rows.shape[1] - sum(widths)], dim=1)
    made = VisualTokens.on_layout(features, layout, tuple(levels))
    return replace(made, marks=like.marks, classes=None if like.classes is None else classes)


def _image(own: Float[Tensor, "T N D"], there: Float[Tensor, " T"], cut: Cut, cells: Grid) -> Float[Tensor, "M D"]:
    spots = torch.tensor(cut.spots, device=own.device)
    views, fine = own[spots[:, 0] < 0], own[spots[:, 0] >= 0]
    if cut.grid == (0, 0):
        return views[0]
    (high, wide), (rows, columns) = shown(cut, cells), cut.grid
    whole = fine.unflatten(0, (rows, columns)).unflatten(2, cells).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    whole = whole[high, wide]
    if not len(views):
        return whole.flatten(0, 1)
    under = views[0].unflatten(0, cells)[under_view(field(cut, cells), cells, own.device)]
    read = there[spots[:, 0] >= 0].view(rows, columns)
    read = read.repeat_interleave(cells[0], 0).repeat_interleave(cells[1], 1)[high, wide]
    made = torch.where(read[..., None] > 0, whole, under)
    if read.requires_grad:
        made = made + (read - read.detach())[..., None] * (whole - under).detach()
    return made.flatten(0, 1)


def under_view(size: Grid, cells: Grid, device: torch.device) -> tuple[Int[Tensor, "R 1"], Int[Tensor, " C"]]:
    """The row and column of the view in which the middle of each cell of a field of this size lies."""
    row, column = (
        ((torch.arange(count, device=device) + 0.5) * own / count).long().clamp(max=own - 1)
        for count, own in zip(size, cells, strict=True)
    )
    return row[:, None], column


def of_tiles(share: Float[Tensor, " N"], cut: Cut, cells: Grid) -> Float[Tensor, " T"]:
    """How much of what a view is worth, cell by cell, lies under each of an image's tiles; under the view itself 0."""
    size = field(cut, cells)
    row, column = under_view(size, cells, share.device)
    place = row * cells[1] + column
    many = torch.bincount(place.flatten(), minlength=len(share))
    own = share / many.clamp(min=1)
    (high, wide), (rows, columns) = shown(cut, cells), cut.grid
    whole = share.new_zeros(rows * cells[0], columns * cells[1])
    whole[high, wide] = own[place]
    each = whole.unflatten(1, (columns, cells[1])).unflatten(0, (rows, cells[0])).sum((1, 3)).flatten()
    spots = torch.tensor(cut.spots, device=share.device)
    made = share.new_zeros(len(spots))
    made[spots[:, 0] >= 0] = each
    return made


def over_view(worth: Float[Tensor, " M"], cut: Cut, cells: Grid) -> Float[Tensor, " N"]:
    """What the cells of a field are worth, added up over the view's cells under which they lie."""
    row, column = under_view(field(cut, cells), cells, worth.device)
    place = (row * cells[1] + column).flatten()
    return worth.new_zeros(cells[0] * cells[1]).index_add(0, place, worth)


def needed(share: Float[Tensor, " T"], cover: float) -> Bool[Tensor, " T"]:
    """The fewest tiles that hold `cover` of what all are worth; none that are worth nothing."""
    order = share.argsort(descending=True, stable=True)
    before = share[order].cumsum(0) - share[order]
    wanted = (before < cover * share.sum() - 1e-6) & (share[order] > 0)
    return torch.zeros_like(wanted).scatter(0, order, wanted)


def gated(there: Bool[Tensor, " T"], share: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """1 for each tile that is there, else 0, with the gradient of its share, brought to as many as there are.

    So who shared learns what else should have been there (straight through, 1308.3432).
    """
    soft = share / share.sum().clamp(min=1e-12) * there.sum()
    return there + (soft - soft.detach())
