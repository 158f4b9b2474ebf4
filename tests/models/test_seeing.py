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


def test_maps_of_large_pictures_stay_small():
    assert over_picture(found(), (1000, 4000), ImageTransform(size=32, mode="square")).maps.shape == (1, 64, 256)
