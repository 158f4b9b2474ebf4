"""Positions on three axes, time, row and column, of words and images in one row (M-RoPE, 2409.12191)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.kept import kept
from foveal.core.types import Layout

AXES = 3


def axial_positions(
    slots: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], layout: Layout, *, first: Int[Tensor, " B"] | None = None
) -> Int[Tensor, "B L 3"]:
    """Where each token stands, from `first` (None: 0) on; padding is at 0.

    Words stand one after the other, alike on all axes. The tokens of an image lie from where it begins by the moment of
    their frame and by row and column of their grid; the words after it go on after the longer of the grid's sides,
    however many its frames (transformers 5). Tokens on no grid are as words, but those of a cut image stand where it
    begins: where they are within it is known when it is seen (`layers/relaid.py`).
    """
    offsets, size, begins = (table.to(slots.device) for table in _tables(layout))
    seen = slots >= 0
    at = slots.clamp(min=0)
    step = torch.where(seen, torch.where(begins[at], size[at], 0), 1) * valid
    before = step.cumsum(1) - torch.where(seen & ~begins[at], size[at], step)
    if first is not None:
        before = before + first[:, None]
    placed = before[..., None] + torch.where(seen[..., None], offsets[at], 0)
    return placed * valid[..., None]


def moments(times: int, interval: float | Tensor) -> tuple[int, ...]:
    """Where so many frames stand in time that are an interval of places apart, in whole places."""
    return tuple((torch.arange(times) * interval).long().tolist())


def extent(slots: Int[Tensor, " L"], layout: Layout) -> int:
    """How many places on what follows these tokens of a row stands."""
    _, size, begins = _tables(layout)
    seen = slots[slots >= 0]
    return len(slots) - len(seen) + int(size[seen][begins[seen]].sum())


@kept(64)
def _tables(layout: Layout) -> tuple[Int[Tensor, "S 3"], Int[Tensor, " S"], Bool[Tensor, " S"]]:
    """Of each visual token: how far it lies from where its image begins, the image's size, and whether it is first.

    There is one more, for batches without images.
    """
    offsets, sizes, begins = [torch.zeros(1, AXES, dtype=torch.long)], [1], [True]
    frames = layout.frames or (1,) * len(layout.counts)
    cut = layout.cut or (None,) * len(layout.counts)
    moments = layout.moments or tuple(tuple(range(times)) for times in frames)
    for count, grid, own, was in zip(layout.counts, layout.grids, moments, cut, strict=True):
        if was is not None:
            offsets.append(torch.zeros(count, AXES, dtype=torch.long))
            sizes += [max(was)] * count
            begins += [True, *[False] * (count - 1)]
            continue
        if grid is None:
            offsets.append(torch.zeros(count, AXES, dtype=torch.long))
            sizes += [1] * count
            begins += [True] * count
            continue
        ranges = (torch.tensor(own, dtype=torch.long), *(torch.arange(side) for side in grid))
        offsets.append(torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).view(-1, AXES))
        sizes += [max(grid)] * count
        begins += [True, *[False] * (count - 1)]
    last = [torch.cat(offsets).roll(-1, 0), torch.tensor(sizes).roll(-1), torch.tensor(begins).roll(-1)]
    return last[0], last[1], last[2]
