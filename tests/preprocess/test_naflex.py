"""Images that fill patches at one scale: the sizes and the values that transformers makes of them."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from foveal.core.errors import InputError
from foveal.core.types import Patches
from foveal.front import load
from foveal.preprocess.naflex import filling
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from tests.preprocess.test_own_processors import picture
from tests.weights.test_siglip2 import SIZES, reference

SIDES = st.one_of(st.integers(1, 60), st.integers(1, 20_000))
PICTURES = [(30, 50), (1, 1), (5, 200), (64, 41), (200, 3), (16, 16)]


@settings(max_examples=300)
@given(height=SIDES, width=SIDES, multiple=st.sampled_from([4, 14, 16, 32]), most=st.integers(1, 1024))
def test_sizes_are_the_references(height, width, multiple, most):
    size = filling((height, width), multiple=multiple, most=most)
    assert size == get_image_size_for_max_num_patches(height, width, multiple, most)
    assert size[0] % multiple == size[1] % multiple == 0 and 0 < size[0] * size[1] <= most * multiple**2


def theirs(images, **settings):
    return Siglip2ImageProcessorPil(**settings)(images, return_tensors="pt")


@pytest.mark.parametrize("given_", [{}, {"patch_size": 4, "max_num_patches": 17}, {"patch_size": 8, "resample": 3}])
def test_values_and_grids_are_the_references_bit_for_bit(given_):
    """Theirs stand in rows that zeros fill up, a pixel's colours together; ours end to end, colour by colour."""
    pictures = [picture(size, seed) for seed, size in enumerate(PICTURES)]
    expected, patch = theirs(pictures, **given_), given_.get("patch_size", 16)
    for named in ("Siglip2ImageProcessor", "Siglip2ImageProcessorFast"):
        look = ImageTransform.from_huggingface({"image_processor_type": named, **given_})
        made = look.pixels(pictures)
        assert isinstance(made, Patches) and made.block == 1
        assert [list(grid[1:]) for grid in made.grids] == expected["spatial_shapes"].tolist()
        own = expected["pixel_values"][expected["pixel_attention_mask"].bool()]
        assert torch.equal(made.values.unflatten(1, (3, patch**2)).mT.flatten(1), own)
        assert [look.planned(one).tile for one in pictures] == [(patch * h, patch * w) for _, h, w in made.grids]
    written = json.loads(Siglip2ImageProcessorPil(**given_).to_json_string())
    assert ImageTransform.from_huggingface({**written, "image_processor_type": named}) == look


@torch.no_grad()
def test_a_tower_sees_raw_pictures_as_the_reference_does(tmp_path):
    made, pictures = reference(**SIZES[0]), [picture(size, seed) for seed, size in enumerate(PICTURES)]
    made.save_pretrained(tmp_path)
    tower, given_ = load(tmp_path), {"patch_size": 4, "max_num_patches": 20}
    look = ImageTransform.from_huggingface({"image_processor_type": "Siglip2ImageProcessor", **given_})
    inputs = theirs(pictures, **given_)
    expected, there = made(**inputs).last_hidden_state, inputs["pixel_attention_mask"].bool()
    seen = tower.vision(look.pixels(pictures))
    torch.testing.assert_close(seen.features, expected[there], atol=1e-5, rtol=1e-5)
    assert seen.layout == tower.vision.plan([look.planned(one).tile for one in pictures])
    torch.testing.assert_close(tower(**inputs).last_hidden_state[there], seen.features, atol=1e-6, rtol=1e-5)


def test_settings_that_patches_do_not_fill_are_told():
    for wrong in ({"patch": 5}, {"depth": 0}):
        with pytest.raises(InputError, match="multiples of 16 pixels for patches of"):
            Tiling(**{"kind": "naflex", "tile": 16, "patch": 16, **wrong})
    fewer = list(Tiling(kind="naflex", tile=16, patch=16, most=4).smaller())
    assert [one.most for one in fewer] == [3, 2, 1]
