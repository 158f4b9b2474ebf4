"""The processors of transformers that cut images: the same tiles, bit for bit."""

import re
import warnings

import numpy as np
import pytest
import torch
import transformers
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


def followed():
    """The kinds that a refusal names."""
    with pytest.raises(InputError) as refused:
        ImageTransform.from_huggingface({"image_processor_type": "NoImageProcessor"})
    return re.findall(r"(\w+)ImageProcessor[,:]", str(refused.value).partition("it follows ")[2])


BOTH, UNEVEN, EDGE = {"height": 32, "width": 32}, {"height": 32, "width": 24}, {"shortest_edge": 32}
SIDES = [32, [32, 32], [32, 24], BOTH, UNEVEN, EDGE, {"longest_edge": 40}, {**EDGE, "longest_edge": 48}]
DOES = [{}, {"do_center_crop": True}, {"do_center_crop": False}, {"do_center_crop": None}]
CROPS = [*DOES, *({"crop_size": crop, **does} for crop in (24, 32, UNEVEN) for does in DOES)]
SMALL = {"Idefics3": {"max_image_size": {"longest_edge": 16}}, "SmolVLM": {"max_image_size": {"longest_edge": 16}},
         "LlavaNext": {"image_grid_pinpoints": [[32, 64], [64, 32]]},
         "LlavaOnevision": {"image_grid_pinpoints": [[32, 64], [64, 32]]}}  # fmt: skip


def noise(*size):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))


def prepared(kind, settings, picture):
    """The values that transformers makes; None where it makes none."""
    try:
        processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
        made = processor([picture], return_tensors="pt")
    except Exception:  # whatever it says of settings that it does not take
        return None
    values = made if isinstance(made, torch.Tensor) else torch.as_tensor(made["pixel_values"])
    return values if values.ndim == 2 else values.flatten(0, -4)


def read(kind, settings):
    return ImageTransform.from_huggingface({"image_processor_type": f"{kind}ImageProcessor", **settings})


@pytest.mark.parametrize("kind", [kind for kind in followed() if kind != "Siglip2"])  # whose size is a patch's
@pytest.mark.filterwarnings("ignore")
def test_what_is_published_is_equal_or_refused(kind):
    picture = noise(45, 70)
    for settings in ({}, *({"size": side, **crop} for side in SIDES for crop in CROPS)):
        try:
            look = read(kind, {**settings, **SMALL.get(kind, {})})
        except InputError:
            continue
        wanted = prepared(kind, {**settings, **SMALL.get(kind, {})}, picture)
        if wanted is not None:
            made = look.pixels([picture]).values
            assert made.shape == wanted[: len(made)].shape, (kind, settings)
            assert torch.allclose(made, wanted[: len(made)], atol=1e-6), (kind, settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DeiT", {"size": 64, "crop_size": 56}),
        ("DeiT", {}),
        ("Beit", {"size": 64, "crop_size": 56, "do_center_crop": True}),
        ("Beit", {"size": 56, "crop_size": 56, "do_center_crop": False}),
        ("Flava", {"size": 56, "crop_size": 56}),
        ("ViT", {"size": 56}),
        ("Blip", {"size": 96}),
        ("Pvt", {"size": 56}),
        ("Gemma3", {"size": 56}),
        ("OwlViT", {"size": [96, 96], "crop_size": 96, "do_center_crop": False}),
        ("Bit", {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}),
        ("Bit", {"size": 64, "crop_size": 56}),
        ("CLIP", {"size": {"height": 56, "width": 56}, "do_center_crop": None}),
    ],
    ids=str,
)
def test_what_is_published_is_read(kind, settings):
    picture = noise(45, 70)
    look = read(kind, settings)
    assert torch.allclose(look(picture)[None], prepared(kind, settings, picture), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("CLIP", {"size": None}, "size of the preprocessor config is null; give it a value, or leave it out"),
        ("CLIP", {"image_mean": None}, "hold 0 numbers; give three"),
        ("Ovis2", {"size": {"shortest_edge": 32}}, "give height and width"),
        ("LlavaNext", {"size": 32, "do_center_crop": False}, "size 32 and crop_size 224 x 224"),
        ("LlavaOnevision", {"size": 32, "crop_size": 24}, "size 32 and crop_size 24 x 24"),
        ("Siglip", {"size": 32}, "size {'shortest_edge': 32} without a centre crop"),
        ("Qwen2VL", {"size": 32}, "give its shortest_edge and longest_edge, in pixels of areas"),
        ("DeiT", {"size": [32, 24]}, "size {'height': 32, 'width': 24} with a centre crop"),
        ("ViT", {"size": [1, 2, 3]}, r"size of the preprocessor config is \[1, 2, 3\]; give pixels"),
        ("CLIP", {"size": {"shortest_edge": "x"}}, "size of the preprocessor config is {'shortest_edge': 'x'}"),
        ("CLIP", {"do_pad": True, "pad_size": {"height": 9, "width": 9}}, "pads what it made; set do_pad to false"),
        ("Llava", {"do_pad": True, "do_normalize": False}, "pads with image_mean and does not subtract it"),
    ],
)
def test_sizes_that_no_one_picture_has_are_told(kind, settings, told):
    with pytest.raises(InputError, match=told):
        read(kind, settings)
