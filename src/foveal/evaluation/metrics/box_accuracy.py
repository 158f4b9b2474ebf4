"""Acc@0.5 of RefCOCO: the share of boxes told in words that overlap the true one by half or more (1608.00272)."""

import re
from collections.abc import Sequence

import numpy as np

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.evaluation.metrics._means import mean
from foveal.evaluation.questions import Question
from foveal.evaluation.tasks import overlap

FIGURES = ("acc_at_0.5", "mean_iou")
RIGHT = 0.5
_NUMBER = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_FOUR = re.compile(rf"[\[(]{','.join([_NUMBER] * 4)}[\])]")


def told(answer: str, size: tuple[float, float]) -> Box | None:
    """The first `[left, top, right, bottom]` of an answer, in pixels of an image of `size`; None where there is none.

    Numbers of which none is above 1 are shares of the image's width and height, others are pixels.
    """
    found = _FOUR.search(answer)
    if found is None:
        return None
    left, top, right, bottom = map(float, found.groups())
    wide, high = size if max(left, top, right, bottom) <= 1 else (1.0, 1.0)
    box = (left * wide, top * high, right * wide, bottom * high)
    return Box(label="", xyxy=box) if box[0] < box[2] and box[1] < box[3] else None


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """Whether each box is right, its overlap, and one `[Q 3]`.

    Raises InputError for a question that is not about one box, or on an image of unknown size.
    """
    rows = []
    for one, said in zip(asked, answers, strict=True):
        size, boxes = one.example.meta.get("size"), one.example.boxes
        if len(boxes) != 1 or not size:
            raise InputError(
                f"question {one.id} has {len(boxes)} boxes and size {size!r}; box_accuracy wants the one box that is "
                "asked for, and 'size' (width, height) in 'meta'"
            )
        box = told(said, (float(size[0]), float(size[1])))
        shared = overlap(box, boxes[0]) if box is not None else 0.0
        rows.append((shared >= RIGHT, shared, 1.0))
    return np.array(rows, float)


def figures(sums: np.ndarray) -> np.ndarray:
    """The share of right boxes, and the mean overlap `[... 2]`."""
    return np.concatenate([mean(sums[..., [0, 2]]), mean(sums[..., [1, 2]])], axis=-1)
