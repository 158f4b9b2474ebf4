from dataclasses import replace

import pytest

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.evaluation.detection import precision, results, truth

PICTURES = [(1, (100, 80)), (2, (100, 80))]
CLASSES = ("cat", "dog", "owl")
TRUE = [
    [Box(label="cat", xyxy=(10.0, 10.0, 50.0, 50.0)), Box(label="dog", xyxy=(60.0, 10.0, 90.0, 70.0))],
    [Box(label="cat", xyxy=(0.0, 0.0, 100.0, 80.0))],
]
NUMBERS = {"cat": 1, "dog": 2, "owl": 3}


def scored(found):
    return precision(truth(PICTURES, TRUE, CLASSES), results([1, 2], found, NUMBERS))


def sure(box, score, **changed):
    return Box(**{"label": box.label, "xyxy": box.xyxy, **changed}, score=score)


def test_the_layouts_are_those_of_coco():
    there = truth(PICTURES, TRUE, CLASSES)
    assert there["images"][0] == {"id": 1, "width": 100, "height": 80}
    assert there["categories"][1] == {"id": 2, "name": "dog"}
    assert there["annotations"][1] == {
        "id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 10, 30, 60], "area": 1800, "iscrowd": 0
    }  # fmt: skip
    rows = results([7], [[sure(TRUE[0][0], 0.5), sure(TRUE[0][0], 0.5, label="ghost")]], NUMBERS)
    assert rows == [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.5}]


def test_the_truth_is_perfect_and_absent_classes_are_not_counted():
    found = scored([[sure(box, 0.9) for box in boxes] for boxes in TRUE])
    assert found.summary["AP"] == found.summary["AP50"] == pytest.approx(1.0)
    assert found.classes == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0), "owl": None}
    assert found.summary["AP_small"] is None


def test_half_the_objects_and_boxes_that_are_off():
    found = scored([[sure(TRUE[0][0], 0.9)], [sure(TRUE[1][0], 0.8)]])
    assert found.summary["AP"] == pytest.approx(0.5) and found.classes["dog"] == 0
    off = scored(
        [[sure(TRUE[0][0], 0.9, xyxy=(10.0, 10.0, 50.0, 36.0)), sure(TRUE[0][1], 0.9)], [sure(TRUE[1][0], 0.8)]]
    )
    assert off.summary["AP50"] == pytest.approx(1.0) and 0.5 < off.summary["AP"] < 0.9  # an overlap of 0.65


def test_a_surer_mistake_costs_precision():
    right = [sure(TRUE[0][1], 0.5)]
    wrong = sure(TRUE[0][1], 0.9, xyxy=(0.0, 0.0, 5.0, 5.0))
    assert scored([[wrong, *right], []]).classes["dog"] == pytest.approx(0.5)


def test_nothing_found_and_nothing_there():
    none = scored([[], []])
    assert none.summary["AP"] == 0
    some = scored([[sure(TRUE[0][0], 0.1, xyxy=(0.0, 0.0, 1.0, 1.0))], []])  # as bad
    assert none == some and None in none.summary.values()
    with pytest.raises(InputError, match="nothing to score"):
        precision(truth(PICTURES, [[], []], CLASSES), [])
    with pytest.raises(InputError, match="picture 9, which is not"):
        precision(truth(PICTURES, TRUE, CLASSES), results([9], [[sure(TRUE[0][0], 1.0)]], NUMBERS))


SQUARE, CORNER = (
    ((10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0),),
    ((10.0, 10.0, 50.0, 10.0, 50.0, 20.0, 20.0, 50.0, 10.0, 50.0),),
)  # 0.72 of the square
MARKED = [
    [replace(TRUE[0][0], segmentation=SQUARE, keypoints=((20.0, 20.0, 2), (40.0, 40.0, 1), (0.0, 0.0, 0)))],
    [replace(TRUE[1][0], segmentation=CORNER)],
]


def marked(found, kind):
    there = truth(PICTURES, MARKED, CLASSES, points=("a", "b", "c"))
    rows = results([1, 2], found, NUMBERS, kind=kind, sizes=dict(PICTURES))
    return precision(there, rows, kind=kind)


def test_what_a_box_holds_is_written_as_coco_does():
    there = truth(PICTURES, MARKED, CLASSES, files=("a.png", "b.png"), points=("a", "b", "c"))
    first, second = there["annotations"]
    assert first["segmentation"] == [list(SQUARE[0])] and first["area"] == 1600 and second["area"] == 1150
    assert first["keypoints"] == [20, 20, 2, 40, 40, 1, 0, 0, 0] and first["num_keypoints"] == 2
    assert "keypoints" not in second and there["categories"][0]["keypoints"] == ["a", "b", "c"]
    assert there["images"][1]["file_name"] == "b.png"
    (row,) = results([1], [[sure(MARKED[0][0], 1.0, segmentation=SQUARE)]], NUMBERS, kind="segm", sizes={1: (100, 80)})
    assert row["segmentation"]["size"] == [80, 100] and isinstance(row["segmentation"]["counts"], str)
    assert results([1], [[sure(TRUE[0][0], 1.0)]], NUMBERS, kind="keypoints") == []


def test_masks_are_compared_by_their_overlap():
    assert marked([[replace(box, score=0.9) for box in boxes] for boxes in MARKED], "segm").summary["AP"] == 1
    half = marked([[sure(MARKED[0][0], 0.8, segmentation=CORNER)], [replace(MARKED[1][0], score=0.9)]], "segm")
    assert half.summary["AP75"] == pytest.approx(0.5, abs=0.01) and half.summary["AP50"] == 1
    with pytest.raises(InputError, match="no picture holds outlines"):
        precision(truth(PICTURES, TRUE, CLASSES), [], kind="segm")


def test_keypoints_are_compared_by_their_distances_and_unknown_ones_not_at_all():
    def at(*points):
        return marked([[sure(MARKED[0][0], 0.9, keypoints=tuple((x, y, 2) for x, y in points))], []], "keypoints")

    assert at((20.0, 20.0), (40.0, 40.0), (70.0, 70.0)).summary["AP"] == pytest.approx(1)
    near = at((22.0, 20.0), (40.0, 42.0), (70.0, 70.0)).summary  # a root of an area of 40: e = 4 / (2 * 0.1^2 * 1600)
    assert near["AP75"] == pytest.approx(1) and near["AP"] == pytest.approx(0.8, abs=0.01)  # of 0.882 similarity
    assert at((60.0, 20.0), (80.0, 40.0), (0.0, 0.0)).summary["AP50"] == 0
    assert marked([[], []], "keypoints").summary["AR"] == 0
    with pytest.raises(InputError, match="no picture holds keypoints"):
        precision(truth(PICTURES, TRUE, CLASSES), [], kind="keypoints")
    other = [MARKED[0], [replace(MARKED[1][0], keypoints=((1.0, 1.0, 2),))]]
    with pytest.raises(InputError, match="objects of 1 and of 3 keypoints"):
        precision(truth(PICTURES, other, CLASSES), [], kind="keypoints")
