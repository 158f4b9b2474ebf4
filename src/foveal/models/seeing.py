"""Where a model looked, in the coordinates of the pictures that it was shown."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveal.core.types import Grid, Looked, Relevance, VisualTokens
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import extent


def looked_at(
    visual: VisualTokens | None, images: Sequence[Any], transform: ImageTransform
) -> tuple[Looked | None, ...]:
    """What steered the cut of each of the images, out of what is left of them; None for one that was cut otherwise."""
    if visual is None or not visual.looked:
        return (None,) * len(images)
    pairs = zip(visual.looked, images, strict=True)
    return tuple(None if one is None else over_picture(one, extent(image), transform) for one, image in pairs)


def over_picture(one: Relevance, size: Grid, transform: ImageTransform) -> Looked:
    """The same over a picture of this height and width before it was resized, padded or cropped; boxes are in pixels.

    Maps have the picture's shape; where the model saw nothing of it they are 0, and shares sum to 1 again.
    """
    place, (height, width) = transform.place(size), transform.grid
    rows, columns = one.shares.shape
    y = _cells(size[0], place.scale_y, place.top, height, rows)
    x = _cells(size[1], place.scale_x, place.left, width, columns)
    unit, shift, grown, most = (
        one.boxes.new_tensor(pair * 2)
        for pair in (
            [height / rows, width / columns],
            [place.top, place.left],
            [place.scale_y, place.scale_x],
            [*size],
        )
    )
    boxes = torch.minimum(((one.boxes * unit - shift) / grown).clamp(min=0), most)
    inside = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
    return Looked(found=one, boxes=boxes[inside], rows=y, columns=x)


def _cells(count: int, step: float, shift: float, whole: int, cells: int) -> Tensor:
    """The row or column of the grid under each of `count` places along a side; -1: none is."""
    middle = (torch.arange(count) + 0.5) * step + shift
    cell = (middle * cells / whole).floor().long()
    return torch.where((middle >= 0) & (middle < whole), cell.clamp(0, cells - 1), -1)
