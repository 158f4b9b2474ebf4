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
    assert scored([[], []]).summary["AP"] == 0
    with pytest.raises(InputError, match="nothing to score"):
        precision(truth(PICTURES, [[], []], CLASSES), [])
    with pytest.raises(InputError, match="picture 9, which is not"):
        precision(truth(PICTURES, TRUE, CLASSES), results([9], [[sure(TRUE[0][0], 1.0)]], NUMBERS))
