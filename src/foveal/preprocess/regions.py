"""Which parts of an image are its visual tokens, where these are not simply the cells of the encoder's grid."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.example import Box
from foveal.core.types import Grid, Layout, Regions
from foveal.preprocess.collate import Group, pictures
from foveal.preprocess.image import image_size
from foveal.preprocess.region_files import Reader
from foveal.preprocess.transform import ImageTransform

Source = Literal["grid", "oracle", "windows"]
Plan = Callable[[Sequence[Grid] | Layout], Layout]  # of image sizes, or of what lies in the images already
WHOLE = (0.0, 0.0, 1.0, 1.0)
WINDOWS = (1, 2, 3, 4)  # how many along each side


class Sights(NamedTuple):
    """The images of groups in order, which of them each group shows, their tokens, and which regions these are."""

    images: list[Any]
    places: list[list[int]]
    layout: Layout
    regions: Regions | None = None


def sights(
    groups: Sequence[Group],
    plan: Plan,
    *,
    transform: ImageTransform,
    source: Source = "grid",
    files: Reader | None = None,
    shared: bool = False,
) -> Sights:
    """What the groups show, before a pixel is read: the regions of `files`, or of the pictures by their `source`.

    `oracle` takes the true boxes of the data and `windows` fixed ones; the whole image goes before both.
    """
    images, places = pictures(groups, shared=shared)
    if not images:
        return Sights(images, places, Layout(counts=(), grids=()))
    if files is not None:
        return Sights(images, places, plan(files.layout(images)))
    if source == "grid":
        return Sights(images, places, plan([transform.grid] * len(images)))
    boxes: list[Tensor] = [torch.tensor([WHOLE])] * len(images)
    for group, mine in zip(groups, places, strict=True):
        for number, place in enumerate(mine):
            truth = [box for box in group[0].example.boxes if box.image == number]
            boxes[place] = windows() if source == "windows" else oracle(truth, images[place], transform)
    counts = tuple(len(some) for some in boxes)
    regions = Regions(boxes=torch.cat(boxes), layout=Layout(counts=counts, grids=(None,) * len(counts)))
    return Sights(images, places, plan(regions.layout), regions)


def windows(sides: Sequence[int] = WINDOWS) -> Float[Tensor, "R 4"]:
    """Windows of equal size beside each other, coarse before fine."""
    corners = [
        (x / side, y / side, (x + 1) / side, (y + 1) / side) for side in sides for y in range(side) for x in range(side)
    ]
    return torch.tensor(corners)


def oracle(boxes: Sequence[Box], image: Any, transform: ImageTransform) -> Float[Tensor, "R 4"]:
    """The whole image, then the boxes as they lie in the transformed one; what the transform crops away is left out."""
    if not boxes:
        return torch.tensor([WHOLE])
    height, width = transform.grid
    place = transform.place(image_size(image))
    corners = np.array([box.xyxy for box in boxes], np.float64)
    corners[:, 0::2] = (corners[:, 0::2] * place.scale_x + place.left) / width
    corners[:, 1::2] = (corners[:, 1::2] * place.scale_y + place.top) / height
    corners = corners.clip(0.0, 1.0)
    shown = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return torch.tensor([WHOLE, *map(tuple, corners[shown].tolist())])
