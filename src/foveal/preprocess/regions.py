"""Which parts of an image are its visual tokens, where these are not simply the cells of the encoder's grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.core.types import Cut, Layout, Patches, Regions, VisualTokens
from foveal.preprocess.collate import Group, pictures
from foveal.preprocess.image import Part, Whole, image_size
from foveal.preprocess.region_files import Reader
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, counts, planned, refuse, timed

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
    """The images of groups in order, which of them each group shows, their tokens, and which regions these are.

    Those that a transform cuts have their `cuts`.
    """

    images: list[Any]
    places: list[list[int]]
    layout: Layout
    regions: Regions | None = None
    cuts: tuple[Cut, ...] = ()

    def check(self, seen: Any, tiling: Tiling | None) -> None:
        """Raises InputError for features of more or fewer images, and an image opened in another size than laid out."""
        if isinstance(seen, VisualTokens) and (count := len(seen.cuts or seen.layout.counts)) != len(self.images):
            raise InputError(f"features of {count} images for a batch of {len(self.images)}; give one set an image")
        if tiling is None:
            return
        if isinstance(seen, Patches):
            laid = [cut.tile for cut in self.cuts]
            made = [(rows * tiling.patch, columns * tiling.patch) for _, rows, columns in seen.grids]
        else:
            laid, made = [cut.size for cut in self.cuts], [cut.size for cut in getattr(seen, "cuts", None) or ()]
        for image, before, now in zip(self.images, laid, made, strict=False):
            if before != now:
                opened = image.image if isinstance(image, Part | Whole) else image
                name = opened if isinstance(opened, str | Path) else "an image"
                raise InputError(
                    f"{name} was laid out with {before[0]} x {before[1]} pixels (height x width) and opened with "
                    f"{now[0]} x {now[1]}; leave image files as they are while they are read"
                )


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
    images, places = pictures(groups, shared=shared, tiling=transform.tiling if source == "grid" else None)
    if not images:
        return Sights(images, places, Layout(counts=(), grids=()))
    if files is not None:
        return Sights(images, places, plan(files.layout(images)))
    if source == "grid" and transform.tiling is not None:
        cuts = planned(images, transform, frames)
        layout = timed(plan(cuts), images, frames)
        return Sights(images, places, layout, cuts=tuple(one for one in cuts if isinstance(one, Cut)))
    if source == "grid":
        film = counts(images, frames)
        if film is not None:
            return Sights(images, places, timed(plan([transform.grid] * sum(film), frames=film), images, frames))
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
