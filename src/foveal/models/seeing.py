"""Where a model looked, in the coordinates of the pictures that it was shown."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.types import Grid, Relevance, VisualTokens
from foveal.preprocess.transform import ImageTransform

_SIDE = 256  # places of a map along the longer side of a picture


def looked_at(
    visual: VisualTokens | None, sizes: list[Grid], transform: ImageTransform
) -> tuple[Relevance | None, ...]:
    """What steered the cut of each of the pictures of these heights and widths, out of what is left of them."""
    pairs = zip(visual.looked, sizes, strict=True) if visual is not None and visual.looked else ()
    return tuple(None if one is None else over_picture(one, size, transform) for one, size in pairs)


def over_picture(one: Relevance, size: Grid, transform: ImageTransform) -> Relevance:
    """The same over a picture of this height and width before it was resized, padded or cropped; boxes are in pixels.

    Maps have the picture's shape; where the model saw nothing of it they are 0, and shares sum to 1 again.
    """
    place, (height, width) = transform.place(size), transform.grid
    rows, columns = one.shares.shape
    scale = min(1.0, _SIDE / max(size))
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    y = _cells(shape[0], size[0] / shape[0] * place.scale_y, place.top, height, rows)
    x = _cells(shape[1], size[1] / shape[1] * place.scale_x, place.left, width, columns)
    maps, shares = (_picked(part, y, x) for part in (one.maps, one.shares[None]))
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
    shares = shares[0] / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
    return replace(one, maps=maps, shares=shares, boxes=boxes[inside])


def _cells(count: int, step: float, shift: float, whole: int, cells: int) -> Tensor:
    """The row or column of the grid under each of `count` places along a side; -1: none is."""
    middle = (torch.arange(count) + 0.5) * step + shift
    cell = (middle * cells / whole).floor().long()
    return torch.where((middle >= 0) & (middle < whole), cell.clamp(0, cells - 1), -1)


def _picked(maps: Float[Tensor, "K R C"], y: Tensor, x: Tensor) -> Float[Tensor, "K h w"]:
    there = (y >= 0)[:, None] & (x >= 0)
    return maps.cpu()[:, y.clamp(min=0)][:, :, x.clamp(min=0)] * there
