"""Regions that a detector has found elsewhere: for each image a file with their features and boxes.

An .npz or .safetensors file holds `features` [R E], `boxes` [R 4] (left, top, right, bottom in pixels), `size` [2] (the
image's width and height) and perhaps `classes` [R N], a distribution over a detector's classes. The names `x`, `bbox`,
`image_w` and `image_h`, `cls_prob` of published extractors are understood too.
"""

import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import FEATURES
from foveal.core.types import Layout, VisualTokens

_OTHERS = {"features": "x", "boxes": "bbox", "classes": "cls_prob"}


@dataclass(frozen=True, kw_only=True)
class RegionFiles:
    """`width` numbers to a region (None: as many as the file has), and at most `most` regions to an image.

    With `cut`, of more regions the first are taken, which detectors order by their scores; without, they are refused.
    """

    width: int | None = None
    most: int = 100
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """The regions of one image: boxes as fractions of width and height; and how many had none."""

    features: Float[Tensor, "R E"]
    boxes: Float[Tensor, "R 4"]
    classes: Float[Tensor, "R N"] | None
    dropped: int


class Reader:
    """Files to visual tokens. `dropped` counts the regions left out because their box is empty or inverted."""

    def __init__(self, settings: RegionFiles) -> None:
        self.settings = settings
        self.dropped = 0
        self._known: set[str] = set()

    def layout(self, images: Sequence[Any]) -> Layout:
        """How many regions each file brings."""
        counts = tuple(len(self._found(image).boxes) for image in images)
        return Layout(counts=counts, grids=(None,) * len(counts))

    def __call__(self, images: Sequence[Any]) -> VisualTokens:
        """The regions of these files, end to end. Raises InputError for a file that is wrong, and says where."""
        found = [self._found(image) for image in images]
        widths = {one.features.shape[1] for one in found}
        if len(widths) > 1:
            raise InputError(f"files of regions with {' and '.join(map(str, sorted(widths)))} numbers in one batch")
        seen = VisualTokens.on_layout(torch.cat([one.features for one in found]), self.layout(images))
        classes = [one.classes for one in found if one.classes is not None]
        return replace(
            seen,
            boxes=torch.cat([one.boxes for one in found]),
            classes=torch.cat(classes) if len(classes) == len(found) else None,
        )

    def _found(self, image: Any) -> Found:
        path = os.fspath(image) if isinstance(image, str | os.PathLike) else None
        if path is None or Path(path).suffix not in FEATURES:
            raise InputError(
                f"{path or 'an opened picture'} is no file of regions ({' or '.join(FEATURES)}), and this model reads "
                "features that are made elsewhere; name such files as 'features' in the data"
            )
        try:
            stamp = os.stat(path).st_mtime_ns
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror}); mend the data") from None
        found = read(path, stamp, self.settings)
        if found.dropped and path not in self._known:
            self._known.add(path)
            self.dropped += found.dropped
            if len(self._known) & (len(self._known) - 1) == 0:  # at 1, 2, 4, 8 ... files
                warnings.warn(
                    f"{self.dropped} regions of {len(self._known)} files are left out, for their boxes are empty or "
                    f"inverted; the last file is {path}",
                    stacklevel=2,
                )
        return found


@lru_cache(maxsize=64)
def read(path: str, stamp: int, settings: RegionFiles) -> Found:
    """The regions of a file as it was at `stamp`. Boxes are clipped to the image; what is left of none is dropped.

    Raises InputError for what is missing, not finite, or does not fit the settings, with both numbers.
    """
    data = _arrays(path)
    features, boxes = _table(data, "features", path), _table(data, "boxes", path)
    if settings.width is not None and features.shape[1] != settings.width:
        raise InputError(
            f"{path}: {features.shape[1]} numbers to a region, but the model reads {settings.width}; "
            "take features of the same detector, or set model.features"
        )
    if boxes.shape != (len(features), 4):
        raise InputError(f"{path}: {len(features)} features but boxes {list(boxes.shape)}; give each region one of 4")
    width, height = _measured(data, path)
    if boxes.size and 0.0 < boxes.max() <= 1.0 < min(width, height):
        raise InputError(
            f"{path}: no box reaches beyond 1 in an image of {width:g} x {height:g} pixels; give boxes in pixels"
        )
    clipped = np.clip(boxes / [width, height, width, height], 0.0, 1.0)
    whole = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    kept = np.flatnonzero(whole)
    if not len(kept):
        raise InputError(f"{path}: none of {len(boxes)} regions has a box with any area; remove its lines")
    if len(kept) > settings.most and not settings.cut:
        raise InputError(
            f"{path}: {len(kept)} regions for at most {settings.most}; "
            "raise processor.region_files.most, or set cut to take the first"
        )
    kept = kept[: settings.most]
    classes = _table(data, "classes", path)[kept] if "classes" in data or "cls_prob" in data else None
    return Found(
        features=torch.from_numpy(features[kept]),
        boxes=torch.from_numpy(clipped[kept].astype(np.float32)),
        classes=None if classes is None else torch.from_numpy(classes),
        dropped=int((~whole).sum()),
    )


def _arrays(path: str) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        return {name: value.float().numpy() for name, value in load_file(path).items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read the regions {path} ({line}); make the file again") from None


def _table(data: Mapping[str, np.ndarray], name: str, path: str) -> np.ndarray:
    found = data.get(name, data.get(_OTHERS[name]))
    if found is None:
        raise InputError(f"{path} lacks {name!r} and holds {', '.join(data) or 'nothing'}; name it so")
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name!r} is {found.dtype} {list(found.shape)}; give numbers, one row a region")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told below
        numbers = found.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{path}: {name!r} holds {int((~np.isfinite(numbers)).sum())} numbers that are not finite in float32"
        )
    return numbers


def size(path: str) -> tuple[int, int]:
    """Width and height in pixels of the image that a file speaks of."""
    width, height = _measured(_arrays(path), path)
    return round(width), round(height)


def _measured(data: Mapping[str, np.ndarray], path: str) -> tuple[float, float]:
    found = data.get("size")
    if found is None and "image_w" in data and "image_h" in data:
        found = np.array([data["image_w"], data["image_h"]])
    if found is None:
        raise InputError(f"{path} lacks 'size', the width and height of its image; boxes mean nothing without")
    numbers = np.asarray(found).astype(np.float64).flatten()
    if len(numbers) != 2 or not np.isfinite(numbers).all() or (numbers <= 0).any():
        raise InputError(f"{path}: 'size' is {numbers.tolist()}; give the width and height of the image in pixels")
    return float(numbers[0]), float(numbers[1])
