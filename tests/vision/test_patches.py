import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.vision.patches import Patches


def patches(**more):
    torch.manual_seed(0)
    return Patches(**{"width": 6, "patch": 4, "image_size": 8, **more})


def test_each_patch_is_a_token_in_raster_order_after_the_class_token():
    model, pixels = patches(), torch.randn(2, 3, 8, 8)
    seen = model(Pixels.whole(pixels))
    assert seen.layout == model.plan([(8, 8)] * 2) and seen.layout.counts == (5, 5)
    weight, bias = model.patches.weight.flatten(1), model.patches.bias
    cut = pixels[1, :, :4, 4:].flatten()
    torch.testing.assert_close(seen.features[5 + 2], weight @ cut + bias)
    assert torch.equal(seen.features[5], model.class_token[0, 0])


def test_without_a_class_token_the_patches_lie_on_their_grid():
    model = patches(class_token=False)
    seen = model(Pixels.whole(torch.zeros(1, 3, 8, 8)))
    assert seen.layout.grids == ((2, 2),) and seen.boxes[1].tolist() == [0.5, 0.0, 1.0, 0.5]


def test_other_sizes_are_refused():
    with pytest.raises(InputError, match="image of 8 x 12 pixels"):
        patches().plan([(8, 12)])
    with pytest.raises(InputError, match="images of 10 pixels with patches of 4"):
        patches(image_size=10)


def test_learned_positions_are_resized_to_the_image():
    model = patches(positions=True)
    with torch.no_grad():
        model.patches.weight.zero_()
        model.patches.bias.zero_()
        seen = [model(Pixels.whole(torch.zeros(1, 3, *size))) for size in ((8, 8), (8, 12))]
    torch.testing.assert_close(seen[0].features[1:], model.positions[0, 1:])
    assert seen[1].layout == model.plan([(8, 12)]) and seen[1].layout.counts == (7,)
    left, middle, right = seen[1].features[1:4]
    torch.testing.assert_close((left + right) / 2, middle)
    torch.testing.assert_close(torch.stack([left, right]), model.positions[0, 1:3])
    assert torch.equal(seen[1].features[0], seen[0].features[0])
    with pytest.raises(InputError, match=r"8 x 10 pixels .* for patches of 4"):
        model.plan([(8, 10)])
