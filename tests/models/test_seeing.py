import pickle

import pytest
import torch

from foveal.core.types import Relevance
from foveal.models.seeing import over_picture
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform


def found():
    maps = torch.arange(16.0).view(1, 4, 4)
    boxes = torch.tensor([[0.0, 0, 2, 4], [2, 0, 4, 2], [2, 2, 4, 4]])
    return Relevance(names=("one",), maps=maps, shares=torch.full((4, 4), 1 / 16), boxes=boxes)


def test_a_square_picture_has_its_maps_as_they_are():
    made = over_picture(found(), (40, 40), ImageTransform(size=32, mode="square"))
    assert made.maps.shape == (1, 40, 40)
    assert torch.equal(made.maps[0, 5::10, 5::10], found().maps[0])
    assert made.boxes.tolist() == [[0, 0, 20, 40], [20, 0, 40, 20], [20, 20, 40, 40]]
    assert made.shares.sum() == pytest.approx(1)


def test_what_was_padding_is_cut_off():
    made = over_picture(found(), (20, 40), ImageTransform(size=32, mode="letterbox"))  # rows 1 and 2 show the picture
    assert made.maps.shape == (1, 20, 40)
    assert torch.equal(made.maps[0, 5::10, 5::10], found().maps[0, 1:3])
    assert made.boxes.tolist() == [[0, 0, 10, 40], [10, 0, 20, 20], [10, 20, 20, 40]]
    assert made.shares.sum() == pytest.approx(1)


def test_tiles_tell_of_the_picture_and_not_of_its_padding():
    tiling = Tiling(kind="anyres", tile=32, pinpoints=((32, 64), (64, 32)))
    made = over_picture(found(), (20, 40), ImageTransform(size=32, mode="letterbox", tiling=tiling))
    assert torch.equal(made.maps[0, 2::5, 5::10], found().maps[0])
    assert made.boxes.tolist() == [[0, 0, 10, 40], [10, 0, 20, 20], [10, 20, 20, 40]]


def test_what_was_cropped_has_no_relevance():
    made = over_picture(found(), (40, 80), ImageTransform(size=32, mode="shortest_crop"))
    assert not made.maps[0, :, :19].any() and not made.maps[0, :, 61:].any()
    assert made.boxes[0].tolist() == [0, 20, 20, 60]


@pytest.mark.parametrize("size", [(400, 600), (1000, 4000), (7, 300)])
def test_maps_and_boxes_are_in_the_pixels_of_the_picture_whatever_its_size(size):
    made = over_picture(found(), size, ImageTransform(size=32, mode="square"))
    assert made.maps.shape == (1, *size) and made.shares.shape == size and made.names == ("one",)
    assert made.boxes[:, 2:].amax(0).tolist() == pytest.approx(size)
    top, left, bottom, right = made.boxes[1].round().long().tolist()
    assert made.maps[0, top:bottom, left:right].unique().tolist() == [8, 9, 12, 13]
    assert made.maps.dtype == made.shares.dtype == torch.float32
    assert made.shares.sum() == pytest.approx(1, abs=1e-4)


def test_what_is_kept_of_a_large_picture_is_as_large_as_its_sides():
    made = over_picture(found(), (3000, 4000), ImageTransform(size=32, mode="square"))
    assert len(pickle.dumps(made)) < 100_000
