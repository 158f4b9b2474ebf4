"""Boxes found against boxes that are there: average precision as COCO defines it (1405.0312), by its own tool."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Box

_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
Pictures = Sequence[tuple[int, tuple[int, int]]]  # the id of each, and its width and height


@dataclass(frozen=True, kw_only=True)
class Precision:
    """COCO's summary, by its names from AP to AR_100 (None where no box has that size), and AP of every class."""

    summary: Mapping[str, float | None]
    classes: Mapping[str, float | None]


def truth(pictures: Pictures, boxes: Sequence[Sequence[Box]], classes: Sequence[str]) -> dict[str, Any]:
    """Pictures and their true boxes in the layout of COCO's annotation files; classes are counted from 1."""
    numbers = {name: place for place, name in enumerate(classes, 1)}
    rows = []
    for (image, _), found in zip(pictures, boxes, strict=True):
        for box in found:
            place = _place(box)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": numbers[box.label],
                    "bbox": list(place),
                    "area": place[2] * place[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": image, "width": width, "height": height} for image, (width, height) in pictures],
        "annotations": rows,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def results(images: Sequence[int], boxes: Sequence[Sequence[Box]], classes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Found boxes in the layout of COCO's result files; `classes` are the category ids by name.

    A box whose name is no category is left out: there it could only be wrong.
    """
    return [
        {
            "image_id": image,
            "category_id": classes[box.label],
            "bbox": [round(number, 2) for number in _place(box)],
            "score": round(box.score or 0.0, 5),
        }
        for image, found in zip(images, boxes, strict=True)
        for box in found
        if box.label in classes
    ]


def _place(box: Box) -> tuple[float, float, float, float]:
    """Left, top, width and height."""
    left, top, right, bottom = box.xyxy
    return left, top, right - left, bottom - top


def precision(there: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Precision:
    """Average precision of results against annotations, both in COCO's layouts.

    Raises InputError where the annotations hold no box, or a result names a picture that is not there.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not there["annotations"]:
        raise InputError("no picture holds a box, so there is nothing to score; give data with boxes")
    strange = {row["image_id"] for row in found} - {row["id"] for row in there["images"]}
    if strange:
        raise InputError(f"results for picture {min(strange)}, which is not in the data; score what the run was shown")
    names = {row["id"]: row["name"] for row in there["categories"]}
    if not found:
        return Precision(summary=dict.fromkeys(_NAMES, 0.0), classes=dict.fromkeys(names.values(), 0.0))
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        data: Any = COCO()
        data.dataset = {"info": {}, **there}
        data.createIndex()
        scored: Any = COCOeval(data, data.loadRes(list(found)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    table = scored.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes; all sizes, most boxes
    each = {names[number]: _mean(table[:, :, place]) for place, number in enumerate(scored.params.catIds)}
    return Precision(
        summary={name: _known(float(value)) for name, value in zip(_NAMES, scored.stats, strict=False)}, classes=each
    )


def _mean(values: Any) -> float | None:
    there = values[values > -1]
    return float(there.mean()) if there.size else None


def _known(value: float) -> float | None:
    """What is not there COCO calls -1."""
    return None if value < 0 else value
