"""The patches' transformer of Pix2Seq; its numbers are checked with the whole model in tests/weights."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.vision.plain_vit import PlainVit

SMALL = {"width": 16, "depth": 1, "heads": 2, "inner": 24, "patch": 4, "image_size": (8, 12)}


def tokens(vit, height, width):
    return vit(Pixels.whole(torch.randn(2, 3, height, width)))


@pytest.mark.parametrize("positions", ["learned", "sin_cos"])
@pytest.mark.parametrize("class_token", [False, True])
def test_one_token_a_patch_for_any_size(positions, class_token):
    vit = PlainVit(**SMALL, positions=positions, class_token=class_token)
    for height, width in ((8, 12), (16, 4)):
        seen = tokens(vit, height, width)
        count = height * width // 16 + class_token
        assert seen.layout == vit.plan([(height, width)] * 2) and seen.layout.counts == (count, count)
        assert seen.layout.grids[0] == (None if class_token else (height // 4, width // 4))


def test_places_tell_equal_patches_apart():
    torch.manual_seed(0)
    vit = PlainVit(**SMALL)
    alike = vit.embed(torch.ones(1, 3, 8, 12))[0]
    assert len({tuple(row) for row in alike.tolist()}) == 6


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"10 x 12 pixels .* multiples of 4"):
        tokens(PlainVit(**SMALL), 10, 12)
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        PlainVit(**{**SMALL, "heads": 3})
