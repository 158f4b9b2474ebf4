import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.preprocess.transform import ImageTransform

SIZES = [(40, 30), (30, 40), (33, 33), (17, 90), (224, 224), (5, 3), (301, 97)]


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def reference(kind):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil, "llava": LlavaImageProcessorPil}[kind]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("clip", {}),
        ("clip", {"size": {"shortest_edge": 37}, "crop_size": {"height": 37, "width": 37}}),
        ("clip", {"size": {"shortest_edge": 36}, "crop_size": {"height": 25, "width": 31}}),
        ("clip", {"size": {"shortest_edge": 20}, "crop_size": {"height": 31, "width": 24}, "resample": 2}),
        ("clip", {"size": {"height": 24, "width": 24}, "crop_size": {"height": 24, "width": 24}}),
        ("siglip", {}),
        ("siglip", {"size": {"height": 48, "width": 32}, "resample": 2, "image_mean": [0.4, 0.5, 0.6]}),
        ("siglip", {"size": {"height": 32, "width": 32}, "do_normalize": False, "rescale_factor": 1 / 127.5}),
        ("llava", {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}, "do_pad": True}),
        ("llava", {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}}),
    ],
)
def test_equal_to_the_processors_of_transformers(kind, settings):
    theirs = reference(kind)(**settings)
    ours = ImageTransform.from_huggingface(theirs.to_dict())
    for size in SIZES:
        image = noise(size)
        wanted = torch.as_tensor(np.stack(theirs(image)["pixel_values"]))[0]
        assert ours(image).dtype == wanted.dtype == torch.float32
        assert torch.equal(ours(image), wanted)
        assert tuple(wanted.shape[1:]) == ours.grid


@pytest.mark.parametrize("name", ["beit", "bit", "blip", "chameleon", "chinese_clip", "flava", "gemma3", "mobilenet_v2",
                                  "pvt", "vit"])  # fmt: skip
@pytest.mark.parametrize("ending", ["FeatureExtractor", "ImageProcessorFast", "ImageProcessorPil"])
def test_other_processors_that_make_one_picture_are_followed_by_their_defaults(name, ending):
    pil = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    (theirs,) = (made for made in vars(pil).values() if getattr(made, "__module__", "") == pil.__name__
                 and str(getattr(made, "__name__", "")).endswith("ImageProcessorPil"))  # fmt: skip
    kind = theirs.__name__.removesuffix("ImageProcessorPil")
    image, wanted = noise((90, 70)), torch.as_tensor(np.stack(theirs()(noise((90, 70)))["pixel_values"]))[0]
    named = {"image_processor_type": kind + ending}
    for config in (named, {**theirs().to_dict(), **named}):
        assert torch.allclose(ImageTransform.from_huggingface(config)(image), wanted, atol=1e-6)


def test_old_configs_are_read_as_their_classes_do():
    clip = ImageTransform.from_huggingface(
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64}
    )
    assert (clip.mode, clip.grid, clip.shortest) == ("shortest_crop", (64, 64), 64)
    siglip = ImageTransform.from_huggingface({"image_processor_type": "SiglipImageProcessor"})
    assert (siglip.mode, siglip.grid, siglip.mean) == ("square", (224, 224), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False}, "without a centre crop; .*one size"),
        ({"size": {"shortest_edge": 378, "longest_edge": 980}}, "makes images of their own shape"),
        ({"size": {"height": 560, "width": 560}, "max_image_tiles": 4}, "makes tiles of an image"),
        ({"size": "big"}, "size of the preprocessor config is 'big'; give pixels"),
        ({"crop_size": [224, 224]}, r"crop_size of the preprocessor config is \[224, 224\]; give pixels"),
        ({"resample": 9}, "unknown resample filter '9'"),
        ({"image_mean": [0.5]}, "hold 1 numbers; give three"),
        ({"crop_size": {"shortest_edge": 288}}, "crop_size {'shortest_edge': 288}; give it a height and a width"),
        (
            {"image_processor_type": "ViltImageProcessor"},
            "'ViltImageProcessor', which .*; it follows CLIPImageProcessor,",
        ),
        (
            {"image_processor_type": "ConvNextFeatureExtractor"},
            "'ConvNextFeatureExtractor', which Foveal does not follow",
        ),
        ({"image_processor_type": "Gemma3ImageProcessorFast", "do_pan_and_scan": True}, "set do_pan_and_scan to false"),
        (
            {
                "image_processor_type": "LlavaImageProcessor",
                "do_pad": True,
                "size": {"shortest_edge": 40},
                "crop_size": 32,
            },
            "size {'shortest_edge': 40} with a centre crop of what it pads",
        ),
    ],
)
def test_what_cannot_be_done_exactly_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        ImageTransform.from_huggingface(config)


def test_letterbox_keeps_the_shape_and_pads_with_the_mean():
    made = ImageTransform(size=20, mode="letterbox", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(
        Image.new("RGB", (40, 20), (255, 255, 255))
    )
    assert torch.equal(made[:, 5:15], torch.ones(3, 10, 20))
    assert made[:, :5].abs().max() < 0.005
    assert made[:, 15:].abs().max() < 0.005


@given(
    mode=st.sampled_from(["square", "square_crop", "shortest_crop", "letterbox", "pad_square"]),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    out=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_every_image_comes_out_at_one_size(mode, size, out):
    transform = ImageTransform(size=out, mode=mode)
    assert transform(noise(size)).shape == (3, *out)


@given(
    mode=st.sampled_from(["square", "square_crop", "shortest_crop", "letterbox", "pad_square"]),
    size=st.tuples(st.integers(60, 200), st.integers(60, 200)),
    corner=st.tuples(st.floats(0.2, 0.5), st.floats(0.2, 0.5)),
)
def test_place_says_where_a_thing_comes_to_lie(mode, size, corner):
    transform = ImageTransform(size=(80, 80), mode=mode, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resample="bilinear")
    left, top = int(corner[0] * size[0]), int(corner[1] * size[1])
    right, bottom = left + size[0] // 4, top + size[1] // 4
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (left, top, right, bottom))
    bright = transform(image)[0] > 0.5
    place = transform.place((size[1], size[0]))
    for low, high, scale, shift, line in (
        (left, right, place.scale_x, place.left, bright.any(0)),
        (top, bottom, place.scale_y, place.top, bright.any(1)),
    ):
        seen = line.nonzero()[:, 0].tolist()
        wanted = (max(0, low * scale + shift), min(80, high * scale + shift))
        if seen:
            assert abs(seen[0] - wanted[0]) <= 1
            assert abs(seen[-1] + 1 - wanted[1]) <= 1
        else:
            assert wanted[1] - wanted[0] < 1.5  # cropped away


def test_pixels_hold_one_tile_an_image():
    made = ImageTransform(size=8).pixels([noise((9, 9)), np.zeros((4, 4), np.uint8)])
    assert made.values.shape == (2, 3, 8, 8)
    assert made.image.tolist() == [0, 1]
    assert ImageTransform(size=8).pixels([]).values.shape == (0, 3, 8, 8)


def test_settings_go_through_yaml_and_back():
    for transform in (ImageTransform(size=(8, 9), mode="letterbox"), ImageTransform(size=7, shortest=9)):
        assert parse(ImageTransform, dump(transform), where="image") == transform


def test_settings_that_make_no_image():
    with pytest.raises(InputError, match="image size of 0"):
        ImageTransform(size=0)
    with pytest.raises(InputError, match="numbers above 0"):
        ImageTransform(std=(0.0, 1.0, 1.0))


@pytest.mark.parametrize("mode", ["pad_square", "shortest_crop"])
def test_a_thread_of_an_image_is_refused_before_it_fills_the_memory(mode):
    with pytest.raises(InputError, match=r"30000 x 1 pixels is too long and thin: .* crop it"):
        ImageTransform(mode=mode)(Image.new("RGB", (30000, 1)))
