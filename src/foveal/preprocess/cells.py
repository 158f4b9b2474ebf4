"""What stands in each cell of an image's grid, out of the boxes of its example: labels for dense supervision."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Grid, Layout
from foveal.preprocess.collate import Group
from foveal.preprocess.image import image_size
from foveal.preprocess.transform import ImageTransform

XYXY = Sequence[float | int]  # left, top, right, bottom in pixels


def cells(
    boxes: Sequence[XYXY],
    tokens: Sequence[int],
    *,
    size: Grid,
    transform: ImageTransform,
    grid: Grid,
    background: int = IGNORE,
    least: float = 0.25,
) -> Int[Tensor, " S"]:
    """The token of the box that covers each cell most, in raster order; `background` where none does.

    `boxes` are pixels of the original image of height and width `size`; they follow the transform's resizing,
    padding and cropping. Of equal covers the smaller box wins. A box counts in a cell from a share `least` of the
    cell on; a box too small for that keeps the one cell that it covers most, unless another box covers this more.
    """
    rows, columns = grid
    found = np.full(rows * columns, background, np.int64)
    if len(boxes) == 0:
        return torch.from_numpy(found)
    height, width = transform.grid
    place = transform.place(size)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    x = (corners[:, 0::2] * place.scale_x + place.left) * (columns / width)
    y = (corners[:, 1::2] * place.scale_y + place.top) * (rows / height)
    cover = (_overlap(y, rows)[:, :, None] * _overlap(x, columns)[:, None, :]).reshape(len(corners), -1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])
    best = cover.argmax(axis=1)
    counts = cover >= least
    counts[np.arange(len(corners)), best] |= cover[np.arange(len(corners)), best] > 0
    order = np.argsort(area, kind="stable")  # argmax takes the first of equals
    scores = np.where(counts, np.round(cover, 6), 0.0)[order]
    winner = order[scores.argmax(axis=0)]
    taken = scores.max(axis=0) > 0
    found[taken] = np.asarray(tokens, np.int64)[winner[taken]]
    return torch.from_numpy(found)


def shown_cells(
    groups: Sequence[Group],
    layout: Layout,
    *,
    label: Callable[[str], int],
    transform: ImageTransform,
    background: int = IGNORE,
) -> Int[Tensor, " S"]:
    """The same for all images of all groups in order; `label` gives the token of a name.

    Raises InputError for visual tokens that lie on no grid, and for videos.
    """
    if layout.frames is not None:
        raise InputError("per-cell labels are those of pictures, and there are videos here; leave them")
    made, image = [], 0
    for group in groups:
        example = group[0].example
        for number, picture in enumerate(example.images):
            grid = layout.grids[image]
            if grid is None:
                raise InputError("per-cell labels need visual tokens on a grid, and these lie on none; leave them")
            boxes = [box for box in example.boxes if box.image == number]
            made.append(
                cells(
                    [box.xyxy for box in boxes],
                    [label(box.label) for box in boxes],
                    size=image_size(picture),
                    transform=transform,
                    grid=grid,
                    background=background,
                )
            )
            image += 1
    return torch.cat(made) if made else torch.zeros(0, dtype=torch.long)


def _overlap(edges: np.ndarray, count: int) -> np.ndarray:
    """How much of each of `count` unit intervals lies between the edges `[N 2]`, as `[N count]`."""
    low = np.arange(count)
    return np.clip(np.minimum(edges[:, 1:], low + 1) - np.maximum(edges[:, :1], low), 0, None)
