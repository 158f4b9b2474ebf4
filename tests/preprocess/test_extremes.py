"""Pictures and numbers that no camera gives, for every kind of tiling: all is bounded, or refused in one line."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import Patches
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.tiling import Kind, Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from tests.preprocess.test_tiling import SMALL

PACKED = {
    "area": Tiling(kind="area", tile=28, patch=7, pixels=(784, 784 * 6), depth=1, thin="brought"),
    "naflex": Tiling(kind="naflex", tile=28, patch=7, most=6, depth=1),
}
EVERY = {**SMALL, **PACKED}
MOST = {  # tiles, or as many pixels, that become of any image; a slice more than told, and the view, are UHD's rule
    **{"anyres": 5, "grid": 10, "uhd": 8, "split": 17, "fitted": 4, "native": 4, "covering": 7, "covering_turned": 7},
    **{"area": 347, "naflex": 6},  # an area gives way where an image is longer than it is thin, as the references' do
}
SIZES = [(1, 1), (1, 20_000), (20_000, 1), (100, 20_000), (20_000, 100), (10, 2_000), (20_000, 20_000), (2, 399)]


def test_every_kind_is_asked():
    assert set(EVERY) == set(get_args(Kind))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", sorted(EVERY))
def test_what_becomes_of_any_shape_is_bounded(kind, size):
    cut = EVERY[kind](size).cut
    assert cut.tiles >= 1 and min(cut.tile) >= 1
    assert cut.tiles * cut.tile[0] * cut.tile[1] <= MOST[kind] * 28 * 28, cut


@pytest.mark.parametrize("size", SIZES[:6])
@pytest.mark.parametrize("kind", sorted(PACKED))
def test_pictures_of_any_shape_become_the_planned_patches(kind, size):
    look = ImageTransform(size=28, tiling=PACKED[kind])
    made = look.pixels([np.zeros((*size, 3), np.uint8)])
    high, wide = PACKED[kind](size).cut.tile
    assert made.grids == ((1, high // 7, wide // 7),) and torch.isfinite(made.values).all()
    assert len(made.values) == made.layout.total


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0), (-3, 4)])
@pytest.mark.parametrize("kind", sorted(EVERY))
def test_sizes_of_nothing_are_refused(kind, size):
    with pytest.raises(InputError, match=rf"an image of {size[0]} x {size[1]} pixels \(height x width\); give one"):
        EVERY[kind](size)


def test_a_shape_too_thin_for_an_area_is_refused_where_it_is_not_brought():
    refusing = Tiling(kind="area", tile=28, patch=7, pixels=(784, 4704))
    assert refusing((20, 4_000)).cut.tiles == 1
    for size in ((20, 4_001), (4_001, 20)):
        with pytest.raises(InputError, match="too long and thin: one side may be up to 200 times the other; crop it"):
            refusing(size)


@pytest.mark.parametrize("grid", [(1, 0, 4), (0, 2, 2), (1, -2, -2)])
def test_patches_on_a_grid_of_nothing_are_refused(grid):
    with pytest.raises(InputError, match=rf"image 1 has a grid of {grid[0]} x {grid[1]} x {grid[2]} patches"):
        _ = Patches(values=torch.zeros(4, 12), grids=((1, 2, 2), grid)).layout


TEXTS = ["what is there ?", "a cat", "USER", "ASSISTANT"]


def parts(kind, context):
    tokenizer, tiling = word_tokenizer(TEXTS), EVERY[kind]
    vision = {"name": "native_vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 7, "image_size": 28}
    if kind in PACKED:
        vision = {"name": "qwen_vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 7, "frames": 1}
    model = {
        "vision": vision,
        "connector": "linear",
        "fusion": "prefix",
        "mosaic": None if kind in PACKED else {},
        "language": {"name": "decoder", "vocabulary": len(tokenizer), "width": 16, "depth": 1, "heads": 2, "inner": 16},
    }
    look = ImageTransform(size=tiling.tile, tiling=tiling)
    settings = ProcessorConfig(image=look, context=context)
    return assemble(ModelConfig.parse(model)).eval(), Processor(tokenizer=tokenizer, config=settings)


def unseen(images):
    raise AssertionError(f"{len(images)} pictures were opened, though their tokens do not fit")


@pytest.mark.parametrize("asking", [True, False])
@pytest.mark.parametrize("kind", sorted(EVERY))
def test_more_tokens_than_the_context_holds_are_refused_before_a_pixel_is_read(kind, asking):
    """The line tells both counts and settings; with these it fits."""
    picture = Image.effect_noise((90, 70), 90).convert("RGB")
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is there ?"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
    one = Example(id="e", messages=(asked, said), images=(picture,))
    model, processor = parts(kind, 10_000)
    make = processor.prompt if asking else processor.training
    needed = int(make([one], plan=model.plan).valid.sum())
    model, small = parts(kind, needed - 1)
    make = small.prompt if asking else small.training
    with pytest.raises(InputError) as told:
        make([one], plan=model.plan, visual=unseen)
    line = str(told.value)
    assert "\n" not in line and f"has {needed} tokens" in line and f"{needed - 1}" in line, line
    assert "processor.image.tiling." in line and "makes it" in line, line
    fewer = int(line.rsplit("makes it ", 1)[1].split()[0])
    assert fewer < needed
