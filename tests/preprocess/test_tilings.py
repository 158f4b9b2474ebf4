"""The processors of transformers that cut images: the same tiles, bit for bit."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.preprocess.transform import ImageTransform

SQUARE = {"size": {"height": 28, "width": 28}}
PROCESSORS = {
    "llava_next": (
        "LlavaNext",
        {
            **{"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
        },
    ),
    "llava_onevision": (
        "LlavaOnevision",
        {**SQUARE, "image_grid_pinpoints": [[28 * a, 28 * b] for a in (1, 2, 3) for b in (1, 2, 3)]},
    ),
    "idefics3": ("Idefics3", {"size": {"longest_edge": 100}, "max_image_size": {"longest_edge": 32}}),
    "smolvlm": ("SmolVLM", {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}),
    "idefics3 whole": (
        "Idefics3",
        {
            **{"size": {"longest_edge": 100}, "max_image_size": {"longest_edge": 32}},
            "do_image_splitting": False,
        },
    ),
    "idefics2": ("Idefics2", {"size": {"shortest_edge": 20, "longest_edge": 50}}),
    "mllama": ("Mllama", {"size": {"height": 32, "width": 32}}),
    "ovis2": ("Ovis2", {"size": {"height": 28, "width": 28}, "crop_to_patches": True, "max_patches": 9}),
    "ovis2 whole": ("Ovis2", {"size": {"height": 28, "width": 28}}),
}
SIZES = [(30, 50), (1, 1), (200, 3), (97, 64), (64, 97), (3, 400), (61, 56)]


def theirs(kind, settings):
    import importlib

    name = kind.lower() if kind in ("SmolVLM", "Idefics2", "Idefics3", "Mllama", "Ovis2") else ""
    name = name or {"LlavaNext": "llava_next", "LlavaOnevision": "llava_onevision"}[kind]
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    return getattr(module, f"{kind}ImageProcessorPil")(**settings)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_same_tiles(name):
    kind, settings = PROCESSORS[name]
    processor = theirs(kind, settings)
    mine = ImageTransform.from_huggingface({"image_processor_type": f"{kind}ImageProcessor", **settings})
    written = {**processor.to_dict(), "image_processor_type": f"{kind}ImageProcessorFast"}
    assert ImageTransform.from_huggingface(written) == mine  # what is left out is their default
    chance = np.random.default_rng(0)
    for size in SIZES:
        image = Image.fromarray(chance.integers(0, 256, (*size, 3), dtype=np.uint8))
        nested = [image] if kind.startswith(("Llava", "Ovis")) else [[image]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = processor(images=nested, return_tensors="pt")["pixel_values"]
        made = mine.pixels([image])
        wanted = values.flatten(0, values.ndim - 4)[: len(made.values)]  # Llama's are filled up with black ones
        assert torch.equal(made.values, wanted), size
        assert not values.flatten(0, values.ndim - 4)[len(made.values) :].any()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"image_processor_type": "LlavaNextImageProcessor", "size": 28, "crop_size": 14}, "size 28 and crop_size 14"),
        ({"image_processor_type": "MllamaImageProcessor", "size": {"height": 9, "width": 8}}, "tiles are square"),
        ({"image_processor_type": "Idefics2ImageProcessor", "size": {"longest_edge": 9}}, "give its shortest_edge and"),
        ({"image_processor_type": "Idefics3ImageProcessor", "size": {"height": 9}}, "give its longest_edge"),
        (
            {"image_processor_type": "Ovis2ImageProcessor", "crop_to_patches": True, "use_covering_area_grid": False},
            "chooses tiles by shape alone",
        ),
    ],
)
def test_settings_that_are_not_supported_are_told(config, told):
    with pytest.raises(InputError, match=told):
        ImageTransform.from_huggingface(config)
