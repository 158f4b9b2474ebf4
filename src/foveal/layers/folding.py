"""Grids of visual tokens folded: neighbours of a square block become one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, VisualTokens


def checked(factor: int, *, name: str) -> int:
    """The factor itself; raises InputError where it is none."""
    if factor < 1:
        raise InputError(f"{name} has a factor of {factor}; give 1 or more")
    return factor


def folded(layout: Layout, factor: int, *, name: str) -> Layout:
    """The layout with `factor` x `factor` cells in one.

    Raises InputError where tokens lie on no grid, and for a grid that the factor does not divide.
    """
    grids: list[Grid] = []
    for image, grid in enumerate(layout.grids):
        if grid is None:
            raise InputError(f"{name} folds a grid, but the tokens of image {image} lie on none; use mlp")
        if grid[0] % factor or grid[1] % factor:
            raise InputError(
                f"{name} folds {factor} x {factor} cells, but the grid of image {image} is {grid[0]} x {grid[1]} (rows "
                "x columns); take a factor that divides both, or images of another size"
            )
        grids.append((grid[0] // factor, grid[1] // factor))
    counts = tuple(count // factor**2 for count in layout.counts)
    return replace(layout, counts=counts, grids=tuple(grids), slots=None)


def rounded(layout: Layout, factor: int) -> Layout:
    """The layout with each grid's sides raised to multiples of `factor`; what lies on no grid stays so."""
    grids = tuple(
        None if grid is None else (_raised(grid[0], factor), _raised(grid[1], factor)) for grid in layout.grids
    )
    frames = layout.frames or (1,) * len(grids)
    counts = (
        count if grid is None else grid[0] * grid[1] * number
        for count, grid, number in zip(layout.counts, grids, frames, strict=True)
    )
    return replace(layout, counts=tuple(counts), grids=grids, slots=None)


def filled(visual: VisualTokens, layout: Layout) -> VisualTokens:
    """The tokens on the larger grids of `layout`: what is new, to the right and below, are zeros without mass."""
    if layout == replace(visual.layout, slots=None):
        return visual
    old, new = visual.layout.by_frame(), layout.by_frame()
    places, start = [], 0
    for count, grid, (rows, columns) in zip(old.counts, old.grids, new.grids, strict=True):  # type: ignore[misc]
        assert grid is not None
        cells = torch.arange(start, start + count).view(grid)
        places.append(F.pad(cells, (0, columns - grid[1], 0, rows - grid[0]), value=-1).flatten())
        start += count
    place = torch.cat(places).to(visual.features.device)
    there = (place >= 0).float()
    taken = [part[place.clamp(min=0)] * there.to(part)[:, None] for part in (visual.features, *visual.levels)]
    made = VisualTokens.on_layout(taken[0], layout, tuple(taken[1:]))
    boxes = visual.boxes[place.clamp(min=0), :4]
    nowhere = boxes.new_tensor([1.0, 1.0, 0.0, 0.0])  # joined with a box, it leaves that as it is
    boxes = torch.where(there[:, None] > 0, boxes, nowhere)
    return replace(made, boxes=boxes, mass=visual.mass[place.clamp(min=0)] * there)


def _raised(side: int, factor: int) -> int:
    return -(-side // factor) * factor


def fold(visual: VisualTokens, layout: Layout, factor: int) -> VisualTokens:
    """Features `[S/factor^2 factor^2*E]`, the cells of each block row by row, on the `layout` that `folded` made."""
    features, *levels = (_blocks(part, visual.layout, factor) for part in (visual.features, *visual.levels))
    mass = _blocks(visual.mass[:, None], visual.layout, factor).sum((1, 2))
    made = VisualTokens.on_layout(features.flatten(1), layout, tuple(level.mean(1) for level in levels))
    cells = _blocks(visual.boxes[:, :4], visual.layout, factor)
    return replace(made, boxes=torch.cat([cells[..., :2].amin(1), cells[..., 2:].amax(1)], dim=1), mass=mass)


def _blocks(features: Float[Tensor, "S E"], layout: Layout, factor: int) -> Float[Tensor, "N K E"]:
    parts, start = [], 0
    for (rows, columns), images in runs(layout.by_frame()):
        count = images * rows * columns
        cells = features[start : start + count].view(images, rows // factor, factor, columns // factor, factor, -1)
        parts.append(cells.transpose(2, 3).reshape(count // factor**2, factor**2, -1))
        start += count
    return torch.cat(parts) if parts else features.new_zeros(0, factor**2, features.shape[1])


def runs(layout: Layout) -> Sequence[tuple[Grid, int]]:
    """Neighbouring images with the same grid, to be treated together: the grid, and how many they are."""
    made: list[tuple[Grid, int]] = []
    for grid in layout.grids:
        assert grid is not None
        if made and made[-1][0] == grid:
            made[-1] = (grid, made[-1][1] + 1)
        else:
            made.append((grid, 1))
    return made
