"""Picture files of every kind: the values that transformers makes of them, but where a picture would be spoiled."""

import io

import numpy as np
import pytest
import transformers
from PIL import Image
from transformers.image_utils import load_image

from foveal.preprocess.transform import ImageTransform

SIZE = (37, 52)
CHANCE = np.random.default_rng(0)
COARSE = np.kron(CHANCE.integers(0, 246, (5, 7, 3)), np.ones((8, 8, 1), int))[: SIZE[0], : SIZE[1]]
COLOURS = (COARSE + CHANCE.integers(0, 10, COARSE.shape)).astype(np.uint8)
CLEAR = np.dstack([COLOURS, CHANCE.integers(0, 256, SIZE, dtype=np.uint8)])
PLAIN, GREY, SEEN_THROUGH = Image.fromarray(COLOURS), Image.fromarray(COLOURS[..., 0]), Image.fromarray(CLEAR)
PALETTE = PLAIN.quantize(32)
ONE, OTHER = (tuple(int(value) for value in COLOURS[place]) for place in ((3, 3), (20, 30)))


def saved(image, kind, **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def moving(first, kind, **settings):
    turned = [first.rotate(180), first.rotate(90)]
    return saved(first, kind, save_all=True, append_images=turned, **settings)


FILES = {
    "rgba": saved(SEEN_THROUGH, "PNG"),
    "grey and alpha": saved(SEEN_THROUGH.convert("LA"), "PNG"),
    "palette": saved(PALETTE, "PNG"),
    "palette, one clear": saved(PALETTE, "PNG", transparency=5),
    "palette, some half clear": saved(PALETTE, "PNG", transparency=bytes([0, 128] + [255] * 30)),
    "grey, one clear": saved(GREY, "PNG", transparency=ONE[0]),
    "colours, one clear": saved(PLAIN, "PNG", transparency=ONE),
    "grey": saved(GREY, "JPEG"),
    "bits": saved(GREY.point(lambda value: 255 * (value > 99), mode="1"), "PNG"),
    "cmyk": saved(PLAIN.convert("CMYK"), "JPEG"),
    "cmyk tiff": saved(PLAIN.convert("CMYK"), "TIFF"),
    "lab": saved(PLAIN.convert("LAB"), "TIFF"),
    "32 bits of small numbers": saved(GREY.convert("I"), "TIFF"),
    "gif": moving(PLAIN, "GIF"),
    "webp": moving(SEEN_THROUGH, "WEBP", lossless=True),
    "apng": moving(SEEN_THROUGH, "PNG"),
}
KINDS = {
    "CLIP": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
    "Llava": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "do_pad": True},
    "Siglip": {"size": {"height": 16, "width": 16}},
    "Qwen2VL": {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 1024}},
    "SmolVLM": {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}},
}


def ours(kind, data):
    told = {"image_processor_type": f"{kind}ImageProcessor", **KINDS[kind]}
    return ImageTransform.from_huggingface(told).pixels([data]).values.numpy()


def theirs(kind, picture):
    made = getattr(transformers, f"{kind}ImageProcessorPil")(**KINDS[kind])(images=picture, return_tensors="np")
    values = np.asarray(made["pixel_values"])
    return values if kind == "Qwen2VL" else values.reshape(-1, *values.shape[-3:])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_values_of_transformers(kind, file):
    np.testing.assert_array_equal(ours(kind, FILES[file]), theirs(kind, Image.open(io.BytesIO(FILES[file]))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved_as", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_told_to_turn_is_turned_however_it_comes(tmp_path, kind, saved_as):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "turned"
    path.write_bytes(saved(PLAIN, saved_as, exif=turned))
    wanted = theirs(kind, load_image(str(path)))  # which turns what it opens itself alone
    for given in (path, path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(ours(kind, given), wanted)


def test_what_transformers_spoils_is_kept():
    """It clips 16 bits at 255, and drops the alpha of files that it opens itself."""
    deep = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(ours("Siglip", saved(deep, "PNG")), theirs("Siglip", GREY.convert("RGB")))
    assert theirs("Siglip", deep).mean() > 0.9 > ours("Siglip", deep).mean()
    clear = Image.new("RGBA", SIZE[::-1], (0, 0, 0, 0))
    assert theirs("Siglip", clear.convert("RGB")).max() == -1 and ours("Siglip", saved(clear, "PNG")).min() == 1
