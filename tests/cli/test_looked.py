"""The panels of `ask --map` and the microscope, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.cli import _looked
from foveal.core.types import Answer, Looked, Relevance

BLACK = Image.new("RGB", (8, 4))
DARKEST, BRIGHTEST = _looked._HUES[0], _looked._HUES[-1]
HALVES = [[0.0, 0.0, 2.0, 2.0], [0.0, 2.0, 2.0, 4.0]]  # of a picture half as wide and high as its panel


def at(panel, x, y):
    return panel.getpixel((x, y))


def over_black(hue):
    return tuple(int(0.65 * part) for part in hue)


def close(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_colours_go_from_the_least_to_the_most():
    panel = _looked.flat(torch.tensor([[-3.0, 5.0]]), (8, 4))
    assert (at(panel, 0, 0), at(panel, 3, 3)) == (DARKEST, DARKEST)
    assert (at(panel, 4, 0), at(panel, 7, 3)) == (BRIGHTEST, BRIGHTEST)
    assert at(_looked.flat(torch.ones(1, 2), (8, 4)), 7, 3) == DARKEST
    assert close(at(_looked.heat(BLACK, torch.tensor([[0.0, 1.0]])), 7, 0), over_black(BRIGHTEST))


def test_boxes_are_painted_where_they_lie_in_the_picture():
    panel = _looked.painted(BLACK, HALVES, [0.0, 1.0], (4, 2))
    assert close(at(panel, 3, 3), over_black(DARKEST)) and close(at(panel, 4, 0), over_black(BRIGHTEST))
    alone = _looked.painted(BLACK, HALVES[1:], [1.0], (4, 2))
    assert close(at(alone, 0, 0), over_black(DARKEST))
    assert np.array_equal(np.asarray(_looked.parted(BLACK, [], (4, 2))), np.asarray(BLACK))


def test_finer_boxes_are_brighter_and_boxes_of_one_size_are_all_fine():
    wide = Image.new("RGB", (90, 30))

    def inside(boxes):
        panel = _looked.detailed(wide, boxes, (9, 3))
        return [sum(at(panel, int(10 * (b[1] + b[3]) / 2), int(10 * (b[0] + b[2]) / 2))) for b in boxes]

    fine, coarse = inside([[0.0, 0.0, 3.0, 3.0], [0.0, 3.0, 3.0, 9.0]])
    assert fine > coarse
    same = inside([[0.0, 0.0, 3.0, 3.0], [0.0, 3.0, 3.0, 6.0]])
    assert same == [fine, fine]
    assert inside([]) == []


@pytest.mark.parametrize("size", [(9000, 9), (3, 9000), (640, 480)])
def test_a_sheet_is_of_a_size_to_be_looked_at_whatever_the_picture(size, tmp_path):
    width, height = size
    shares = torch.rand(2, 3)
    found = Relevance(names=("one",), maps=shares[None], shares=shares / shares.sum(), boxes=torch.zeros(0, 4))
    rows, columns = (torch.arange(side) * cells // side for side, cells in ((height, 2), (width, 3)))
    boxes = torch.tensor([[0.0, 0.0, height, width]])
    one = Looked(found=found, boxes=boxes, rows=rows, columns=columns)
    answer = Answer(text="", visual_tokens=1, relevance=(one,))
    _looked.draw([Image.new("RGB", size)], answer, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width <= 3 * (_looked._WIDE + 6) and sheet.height <= _looked._HIGH + _looked._BAND


def test_a_box_of_nothing_is_still_drawn():
    _looked.detailed(BLACK, [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 2.0, 4.0]], (4, 2))
    assert _looked.areas_of([[1.0, 1.0, 1.0, 1.0]]) == [1e-6]


def looked(boxes):
    found = Relevance(names=(), maps=torch.ones(0, 2, 2), shares=torch.ones(2, 2) / 4, boxes=boxes)
    return Looked(found=found, boxes=boxes, rows=torch.tensor([0, 1]), columns=torch.tensor([0, 0, 1, 1]))


def test_the_tokens_of_a_title_are_those_that_were_read():
    one, queries = looked(torch.tensor(HALVES)), looked(torch.zeros(0, 4))
    assert _looked.counted(one, Answer(text="", visual_tokens=9, relevance=(one,))) == "2 tokens"
    assert _looked.counted(queries, Answer(text="", visual_tokens=8, relevance=(queries,))) == "8 tokens"
    both = Answer(text="", visual_tokens=16, relevance=(queries, None))
    assert _looked.counted(queries, both) == "16 tokens in all"


def test_the_title_of_queries_is_drawn(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(_looked, "_row", lambda picture, one, tokens: titles.append(tokens) or picture)
    answer = Answer(text="", visual_tokens=8, relevance=(looked(torch.zeros(0, 4)),))
    _looked.draw([BLACK], answer, tmp_path / "out.png")
    assert titles == ["8 tokens"]
