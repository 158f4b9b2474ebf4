"""What was found against what is there: average precision as COCO defines it (1405.0312), by its own tool.

Boxes and masks are compared by their overlap, keypoints by their distances (OKS). COCO has measured how far apart
people place its 17 points of a body; of other points nobody has, and each gets the same tolerance.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from foveal.core.errors import InputError
from foveal.core.example import Box, marks

Kind = Literal["bbox", "segm", "keypoints"]
TOLERANCE, BODY = 0.05, 17  # of a keypoint, as a share of the root of its object's area; points that COCO has measured
_BOXES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
_POINTS = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")
_NAMES = MappingProxyType({"bbox": _BOXES, "segm": _BOXES, "keypoints": _POINTS})
_WANTED = MappingProxyType({"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"})
Pictures = Sequence[tuple[int, tuple[int, int]]]  # the id of each, and its width and height


@dataclass(frozen=True, kw_only=True)
class Precision:
    """COCO's summary, by its names from AP to AR_100 (None where no box has that size), and AP of every class."""

    summary: Mapping[str, float | None]
    classes: Mapping[str, float | None]


def truth(
    pictures: Pictures,
    boxes: Sequence[Sequence[Box]],
    classes: Sequence[str],
    *,
    files: Sequence[str] = (),
    points: Sequence[str] = (),
    crowds: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> dict[str, Any]:
    """Pictures and their true boxes in the layout of COCO's annotation files; classes are counted from 1.

    `files` names the pictures and `points` the keypoints, where they have any. The area of an object is its own, that
    of its outline, or of its box where it has neither. `crowds` are regions of each picture (`label`, `bbox` and what
    else COCO has of them) in which a box that is found counts neither way.
    """
    numbers = {name: place for place, name in enumerate(classes, 1)}
    rows = []
    for (image, _), found in zip(pictures, boxes, strict=True):
        for box in found:
            place, more = _place(box), marks(box)
            if box.keypoints:
                more["num_keypoints"] = sum(v > 0 for _, _, v in box.keypoints)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": numbers[box.label],
                    "bbox": list(place),
                    "area": sum(map(_area, box.segmentation)) or place[2] * place[3],
                    "iscrowd": 0,
                    **more,
                }
            )
    for (image, _), regions in zip(pictures, crowds, strict=bool(crowds)):
        for region in regions:
            bare = {key: region[key] for key in ("segmentation", "area") if key in region}
            place = {"id": len(rows) + 1, "image_id": image, "category_id": numbers[region["label"]]}
            area = region["bbox"][2] * region["bbox"][3]
            rows.append({"area": area, **place, "bbox": list(region["bbox"]), "iscrowd": 1, **bare})
    named = [{"file_name": name} for name in files] or [{}] * len(pictures)
    return {
        "images": [
            {"id": image, "width": width, "height": height, **name}
            for (image, (width, height)), name in zip(pictures, named, strict=True)
        ],
        "annotations": rows,
        "categories": [
            {"id": number, "name": name, **({"keypoints": list(points), "skeleton": []} if points else {})}
            for name, number in numbers.items()
        ],
    }


def results(
    images: Sequence[int],
    boxes: Sequence[Sequence[Box]],
    classes: Mapping[str, int],
    *,
    kind: Kind = "bbox",
    sizes: Mapping[int, tuple[int, int]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Found boxes, or their masks or keypoints, in the layout of COCO's result files; `classes` are category ids.

    Left out are boxes whose name is no category (they could only be wrong), and those without what is wanted. Masks
    are runs of pixels, for which the `sizes` of the pictures (width, height) must be known.
    """
    return [
        {
            "image_id": image,
            "category_id": classes[box.label],
            _WANTED[kind]: _told(box, kind, sizes.get(image)),
            "score": round(box.score or 0.0, 5),
        }
        for image, found in zip(images, boxes, strict=True)
        for box in found
        if box.label in classes and (kind == "bbox" or marks(box).get(_WANTED[kind]))
    ]


def _told(box: Box, kind: Kind, size: tuple[int, int] | None) -> Any:
    if kind == "bbox":
        return [round(number, 2) for number in _place(box)]
    if kind == "keypoints":
        return [round(value, 2) for point in box.keypoints for value in point]
    from pycocotools import mask

    assert size is not None
    width, height = size
    polygons: Any = [list(one) for one in box.segmentation]
    runs: Any = mask.merge(mask.frPyObjects(polygons, height, width))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}


def _area(polygon: Sequence[float]) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return 0.5 * abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()))


def _place(box: Box) -> tuple[float, float, float, float]:
    """Left, top, width and height."""
    left, top, right, bottom = box.xyxy
    return left, top, right - left, bottom - top


def precision(there: Mapping[str, Any], found: Sequence[Mapping[str, Any]], *, kind: Kind = "bbox") -> Precision:
    """Average precision of results against annotations, both in COCO's layouts.

    Raises InputError where the annotations hold nothing of the kind, or a result names a picture that is not there.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = _known(there["annotations"], kind)
    if not rows:
        what = {"bbox": "a box", "segm": "outlines", "keypoints": "keypoints"}[kind]
        raise InputError(f"no picture holds {what}, so there is nothing to score; give data that have them")
    strange = {row["image_id"] for row in found} - {row["id"] for row in there["images"]}
    if strange:
        raise InputError(f"results for picture {min(strange)}, which is not in the data; score what the run was shown")
    names = {row["id"]: row["name"] for row in there["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        data: Any = COCO()
        data.dataset = {"info": {}, **there, "annotations": rows}
        data.createIndex()
        nothing: Any = COCO()  # `loadRes` does not take an empty list
        nothing.dataset = {**data.dataset, "annotations": []}
        nothing.createIndex()
        scored: Any = COCOeval(data, data.loadRes(list(found)) if found else nothing, kind)
        if kind == "keypoints" and (count := len(rows[0]["keypoints"]) // 3) != BODY:
            scored.params.kpt_oks_sigmas = np.full(count, TOLERANCE)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    table = scored.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes; all sizes, most boxes
    each = {names[number]: _mean(table[:, :, place]) for place, number in enumerate(scored.params.catIds)}
    summary = {name: _there(float(value)) for name, value in zip(_NAMES[kind], scored.stats, strict=False)}
    return Precision(summary=summary, classes=each)


def _known(rows: Sequence[Mapping[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """The annotations that hold what is scored; of those without keypoints COCO wants to hear that they have none.

    None at all where that is all of them. Raises InputError where some have more keypoints than others.
    """
    if kind != "keypoints":
        return [dict(row) for row in rows if row.get(_WANTED[kind])]
    counts = {len(row["keypoints"]) for row in rows if row.get("keypoints")}
    if len(counts) > 1:
        raise InputError(f"objects of {min(counts) // 3} and of {max(counts) // 3} keypoints; score one kind at a time")
    if not any(row.get("num_keypoints") for row in rows):
        return []
    nothing = {"keypoints": [0] * counts.pop(), "num_keypoints": 0}
    return [{**nothing, **row} for row in rows]


def _mean(values: Any) -> float | None:
    there = values[values > -1]
    return float(there.mean()) if there.size else None


def _there(value: float) -> float | None:
    """What is not there COCO calls -1."""
    return None if value < 0 else value
