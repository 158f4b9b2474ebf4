"""Which parts of an image are its visual tokens, where these are not simply the cells of the encoder's grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.core.types import Layout, Regions
from foveal.preprocess.collate import Group, pictures
from foveal.preprocess.image import image_size
from foveal.preprocess.region_files import Reader
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, counts, planned, refuse

Source = Literal["grid", "oracle", "windows", "proposals"]
Find = Callable[[Sequence[Any]], Sequence[Sequence[Box]]]  # the boxes that each picture is found to hold
Plan = Callable[..., Layout]  # of image sizes (with `frames` of videos), or of what lies in the images already
WHOLE = (0.0, 0.0, 1.0, 1.0)
WINDOWS = (1, 2, 3, 4)  # how many along each side


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The boxes that a `run` finds in a picture, the surest first: at most `most`, of a score of `least` or more.

    `sha256` is that of the run, kept by the model that has learned from it. Raises InputError for numbers out of range.
    """

    run: str
    least: float = 0.3
    most: int = 20
    sha256: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or self.most < 1:
            raise InputError(
                f"proposals of a score of {self.least} or more, at most {self.most}; give a score from 0 to 1, and 1 "
                "box or more"
            )

    @classmethod
    def of(cls, given: "str | Proposals") -> "Proposals":
        """The same, or those of a run that is named alone."""
        return cls(run=given) if isinstance(given, str) else given


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
    find: Find | None = None,
    shared: bool = False,
    frames: Frames | None = None,
) -> Sights:
    """What the groups show, before a pixel is read: the regions of `files`, or of the pictures by their `source`.

    `oracle` takes the true boxes of the data, `windows` fixed ones and `proposals` those that `find` finds; the whole
    image goes before them; a video has `frames` alone. Raises InputError for proposals that nothing finds.
    """
    images, places = pictures(groups, shared=shared)
    if not images:
        return Sights(images, places, Layout(counts=(), grids=()))
    if files is not None:
        return Sights(images, places, plan(files.layout(images)))
    if source == "grid" and transform.tiling is not None:
        return Sights(images, places, plan(planned(images, transform, frames)))
    if source == "grid":
        film = counts(images, frames)
        if film is not None:
            return Sights(images, places, plan([transform.grid] * sum(film), frames=film))
        return Sights(images, places, plan([transform.grid] * len(images)))
    refuse(images, "regions")
    if transform.tiling is not None:
        raise InputError(
            f"regions ({source}) of images that are cut into tiles are not made here; leave one of them out"
        )
    if source == "windows":
        boxes = [windows()] * len(images)
    else:
        true = source == "oracle"
        lying = _true(groups, places, len(images)) if true else _found(images, find)
        boxes = [placed(some, image, transform) for some, image in zip(lying, images, strict=True)]
    layout = Layout(counts=tuple(len(some) for some in boxes), grids=(None,) * len(boxes))
    regions = Regions(boxes=torch.cat(boxes), layout=layout)
    return Sights(images, places, plan(regions.layout), regions)


def windows(sides: Sequence[int] = WINDOWS) -> Float[Tensor, "R 4"]:
    """Windows of equal size beside each other, coarse before fine."""
    corners = [
        (x / side, y / side, (x + 1) / side, (y + 1) / side) for side in sides for y in range(side) for x in range(side)
    ]
    return torch.tensor(corners)


def _true(groups: Sequence[Group], places: Sequence[Sequence[int]], count: int) -> Sequence[Sequence[Box]]:
    lying: list[Sequence[Box]] = [()] * count
    for group, mine in zip(groups, places, strict=True):
        for number, place in enumerate(mine):
            lying[place] = [box for box in group[0].example.boxes if box.image == number]
    return lying


def _found(images: Sequence[Any], find: Find | None) -> Sequence[Sequence[Box]]:
    if find is None:
        raise InputError(
            "regions are proposals and no run finds them; name one with processor.proposals=RUN, or take 'windows'"
        )
    return find(images)


def placed(boxes: Sequence[Box], image: Any, transform: ImageTransform) -> Float[Tensor, "R 4"]:
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
