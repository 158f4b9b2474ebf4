import pytest

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.evaluation.metrics.box_accuracy import figures, parts, told
from tests.evaluation.asking import ask


def about(*xyxy, **meta):
    box = Box(label="dog", xyxy=tuple(map(float, xyxy)))
    return ask("", id="7", boxes=(box,), meta={"size": [100, 50], **meta})


@pytest.mark.parametrize(
    ("answer", "xyxy"),
    [
        ("[0.1, 0.2, 0.5, 0.8]", (10, 10, 50, 40)),
        ("It is at (10,10, 50,40).", (10, 10, 50, 40)),
        ("[.1,.2,.5,.8]", (10, 10, 50, 40)),
        ("[1e1, 10., +5e+1, 4.0E1]", (10, 10, 50, 40)),
        ("[1e-1, 0.2, 5.e-1, .8]", (10, 10, 50, 40)),
        ("[0, 0, 1, 1] or [0.1, 0.2, 0.5, 0.8]", (0, 0, 100, 50)),
    ],
)
def test_boxes_are_read_from_words(answer, xyxy):
    assert told(answer, (100.0, 50.0)).xyxy == pytest.approx(xyxy)


@pytest.mark.parametrize(
    "answer", ["", "left", "[0.1, 0.2, 0.5]", "[., ., ., .]", "[1e, 2e, 3e, 4e]", "[0.5, 0.2, 0.1, 0.8]"]
)
def test_what_is_no_box_is_wrong(answer):
    assert told(answer, (100.0, 50.0)) is None
    assert figures(parts([about(10, 10, 50, 40)], [answer]).sum(0)) == pytest.approx([0, 0])


def test_accuracy_and_mean_overlap():
    """By hand: overlaps of 1, of exactly one half (which counts), and of a third."""
    asked = [about(10, 10, 50, 40), about(0, 0, 100, 50), about(0, 0, 20, 10)]
    found = figures(parts(asked, ["[0.1, 0.2, 0.5, 0.8]", "[0, 0, 0.5, 1]", "[10, 0, 30, 10]"]).sum(0))
    assert found == pytest.approx([2 / 3, (1 + 1 / 2 + 1 / 3) / 3])


def test_what_is_not_about_one_box_is_refused():
    with pytest.raises(InputError, match=r"question 7 has 1 boxes and size None; box_accuracy wants"):
        parts([about(0, 0, 1, 1, size=None)], [""])
