import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from foveal.core.errors import InputError
from foveal.preprocess.image import _load, begun, image_size, kept, open_image, upright

COLOURS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def saved(image, kind, **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def same(image, values):
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), values)


def test_one_picture_by_every_road(tmp_path):
    data = saved(Image.fromarray(COLOURS), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.fromarray(COLOURS), COLOURS):
        same(open_image(source), COLOURS)
    with open(path, "rb") as stream:
        same(open_image(stream), COLOURS)
    assert image_size(path) == image_size(str(path)) == image_size(data) == (4, 6)


def test_another_picture_in_the_same_place_has_its_own_size(tmp_path):
    path = tmp_path / "a.png"
    for changed, size in enumerate([(4, 6), (30, 2), (2, 30), (4, 6)]):
        Image.new("RGB", size).save(path)
        os.utime(path, ns=(changed, changed))
        assert image_size(path) == image_size(str(path)) == size[::-1]
    path.unlink()
    with pytest.raises(InputError, match="there is no such image file"):
        image_size(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, kind):
    sharp = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(sharp), kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
    flat = sharp if kind == "TIFF" else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    upright = {
        1: flat,
        2: flat[:, ::-1],
        3: flat[::-1, ::-1],
        4: flat[::-1],
        5: flat.transpose(1, 0, 2),
        6: flat.transpose(1, 0, 2)[:, ::-1],
        7: flat.transpose(1, 0, 2)[::-1, ::-1],
        8: flat.transpose(1, 0, 2)[::-1],
    }[orientation]
    same(open_image(data), upright)
    assert image_size(data) == upright.shape[:2]


def test_alpha_is_laid_over_white():
    clear = np.dstack([COLOURS, np.zeros((4, 6), np.uint8)])
    same(open_image(saved(Image.fromarray(clear), "PNG")), np.full((4, 6, 3), 255))
    grey = Image.fromarray(np.dstack([COLOURS[..., 0], np.full((4, 6), 255, np.uint8)]))
    assert grey.mode == "LA"
    same(open_image(saved(grey, "PNG")), np.repeat(COLOURS[..., :1], 3, axis=2))
    same(open_image(clear), np.full((4, 6, 3), 255))


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    same(open_image(saved(image, "PNG")), np.full((4, 4, 3), [40, 50, 60]))
    same(open_image(saved(image, "PNG", transparency=1)), np.full((4, 4, 3), 255))
    same(open_image(saved(Image.new("L", (4, 4), 7), "PNG", transparency=7)), np.full((4, 4, 3), 255))
    same(open_image(saved(Image.new("RGB", (4, 4), (7, 7, 7)), "PNG", transparency=(7, 7, 7))), np.full((4, 4, 3), 255))


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    wanted = np.repeat(np.round(ramp / 257).astype(np.uint8)[..., None], 3, axis=2)
    same(open_image(saved(Image.fromarray(ramp), "PNG")), wanted)
    same(open_image(saved(Image.fromarray(ramp), "TIFF")), wanted)
    same(open_image(Image.fromarray(ramp.astype(np.int32))), wanted)
    same(open_image(ramp), wanted)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            np.array([[0, 2_000_000_000]], np.int32),
            "wide.tif has values from 0 to 2e.09; bring them to 0 to 255 or 65535",
        ),
        (np.array([[-100, 200]], np.int32), "from -100 to 200"),
        (np.array([[0, 70_000]], np.float32), "from 0 to 70000"),
        (np.array([[-1, 1]], np.float32), "from -1 to 1"),
        (np.array([[0, np.nan]], np.float32), "from nan to nan"),
    ],
)
def test_values_beyond_the_range_are_told_and_not_clipped(values, told):
    with pytest.raises(InputError, match=told):
        open_image(saved(Image.fromarray(values), "TIFF"), name="wide.tif")


def test_a_value_that_rounds_into_the_range_is_in_it():
    near = Image.fromarray(np.array([[-1e-7, 0.5, 1.0]], np.float32))
    same(open_image(near), np.repeat(np.array([[0, 128, 255]])[..., None], 3, axis=2))


def test_floats_grey_bits_and_cmyk():
    ramp = np.linspace(0, 1, 24).reshape(4, 6)
    wanted = np.repeat(np.round(ramp * 255).astype(np.uint8)[..., None], 3, axis=2)
    same(open_image(ramp), wanted)
    same(open_image(ramp[..., None]), wanted)
    same(open_image(Image.fromarray(ramp.astype(np.float32))), wanted)
    same(open_image(Image.fromarray((ramp * 255).astype(np.float32))), wanted)
    bits = ramp > 0.5
    black = np.repeat((bits * 255).astype(np.uint8)[..., None], 3, axis=2)
    same(open_image(bits), black)
    same(open_image(saved(Image.fromarray(bits), "PNG")), black)
    red = open_image(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red.mode == "RGB"
    assert abs(np.asarray(red).astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    same(open_image(data), np.full((8, 8, 3), [255, 0, 0]))


def test_the_image_handed_in_stays_as_it_is():
    image = Image.new("RGBA", (3, 3), (1, 2, 3, 4))
    open_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 4)


def bomb(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_half_a_file_is_refused_whatever_others_told_pillow(monkeypatch, tmp_path):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or truncated"):
        open_image(tmp_path / "cut.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_half_a_file_is_refused_by_threads_that_read_together(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    seen, begun, ends = {}, threading.Event(), threading.Event()

    class Picture(Image.Image):
        def __init__(self, load):
            super().__init__()
            self.load = load

    def first():
        _load(Picture(lambda: (begun.set(), ends.wait(5))))
        seen["first is done"] = ImageFile.LOAD_TRUNCATED_IMAGES

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(5)
    _load(Picture(lambda: (ends.set(), thread.join(), seen.update({"second reads": ImageFile.LOAD_TRUNCATED_IMAGES}))))
    assert seen == {"first is done": False, "second reads": False}
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_bad_files_say_what_where_and_what_to_do(tmp_path):
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")
    jpeg = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    bad = {
        "text.png": (b"just some words, not a picture", "is not a picture that Pillow reads .* give a PNG"),
        "empty.png": (b"", "is empty .0 bytes.; replace it"),
        "cut.png": (whole[: len(whole) // 2], "is damaged or truncated .*; replace the file"),
        "head.png": (whole[:20], "is damaged or truncated .*; replace the file"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "is damaged or truncated .*; replace the file"),
        "bomb.png": (bomb(100_000, 90_000), "has 100000 x 90000 pixels .*over the limit of 200000000; make it smaller"),
        "flat.png": (bomb(0, 5), "is damaged or truncated .*; replace the file"),
    }
    for name, (data, message) in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match=message) as caught:
            open_image(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_heads_have_the_limit_of_whole_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(bomb(17_000, 11_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (str(tmp_path / "a.png"), io.BytesIO(bomb(17_000, 11_000))):
            with begun(source, "it") as opened:
                assert opened.size == (17_000, 11_000)
    with pytest.raises(InputError, match=r"it has 17000 x 12000 pixels .*over the limit of 200000000; make it smaller"):
        begun(io.BytesIO(bomb(17_000, 12_000)), "it")


def behind(data, kind, said):
    """A PNG with one more chunk behind its pixels."""
    end = len(data) - 12
    return (
        data[:end]
        + struct.pack(">I", len(said))
        + kind
        + said
        + struct.pack(">I", zlib.crc32(kind + said))
        + data[end:]
    )


def test_long_texts_of_a_png_are_read_up_to_a_bound():
    plain, long, longer = saved(Image.fromarray(COLOURS), "PNG"), bytes(3 << 20), bytes(65 << 20)
    word = b"Raw profile type exif\0\0"
    before = PngInfo()
    before.add_text("a", long.decode(), zip=True)
    for data in (
        saved(Image.fromarray(COLOURS), "PNG", pnginfo=before),
        saved(Image.fromarray(COLOURS), "PNG", icc_profile=long),
        behind(plain, b"zTXt", b"a\0\0" + zlib.compress(long)),
        behind(plain, b"zTXt", word + zlib.compress(long)),
    ):
        same(open_image(data), COLOURS)
        assert image_size(data) == (4, 6)
        begun(io.BytesIO(data), "it").close()
    for read in (open_image, image_size):
        with pytest.raises(
            InputError, match=r"^the image holds over 64 MiB of text beside its pixels; save it without$"
        ):
            read(behind(plain, b"zTXt", word + zlib.compress(longer)))
    assert PngImagePlugin.MAX_TEXT_CHUNK == ImageFile.SAFEBLOCK


def test_a_png_that_is_turned_behind_broken_pixels_is_told_when_its_size_is_asked():
    data = bytearray(behind(saved(Image.effect_noise((64, 64), 9), "PNG"), b"eXIf", b""))
    data[800:860] = bytes(60)
    for read in (open_image, image_size):
        with pytest.raises(InputError, match=r"is damaged or truncated .*; replace the file"):
            read(bytes(data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (saved(Image.fromarray(COLOURS), "EPS"), "EPS"),
        (b"\0\0\1\xb3" + bytes(range(1, 9)), "MPEG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"),
    ],
)
def test_of_what_the_head_alone_is_read_is_told(data, kind):
    for read in (open_image, image_size, lambda data: begun(io.BytesIO(data), "the image")):
        with pytest.raises(InputError, match=rf"the image is {kind}, of which Pillow reads the head alone; convert it"):
            read(data)


def test_missing_directory_and_odd_things(tmp_path):
    for source, message in (
        (tmp_path / "none.png", "none.png: there is no such image file; check the path"),
        (tmp_path, "is a directory; name an image file in it"),
        ("a\0b.png", "cannot be read .*; check the path"),
        (tmp_path / ("x" * 300), "cannot be read .*; check the path"),
        (17, "is a int; give a path"),
        (np.zeros((0, 5, 3), np.uint8), "has 5 x 0 pixels; give a picture"),
        (np.zeros((2, 2, 7), np.uint8), r"array of shape \(2, 2, 7\)"),
        (np.full((2, 2), -3.0), "array of float64 from -3.0 to -3.0"),
        (np.full((2, 2), 300), "array of int64 from 300 to 300"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_image(source)
        assert "\n" not in str(caught.value)


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything
        monkeypatch.setattr(
            "pathlib.Path.read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "denied"))
        )
    with pytest.raises(InputError, match="no permission to read it; change its mode or its owner"):
        open_image(path)


def test_a_name_and_a_limit_of_ones_own():
    with pytest.raises(InputError, match=r"the standard input has 6 x 4 pixels .*over the limit of 20"):
        open_image(COLOURS, name="the standard input", limit=20)


def test_opening_leaves_the_guard_of_pillow_in_place():
    before = Image.MAX_IMAGE_PIXELS
    open_image(saved(Image.fromarray(COLOURS), "PNG"))
    assert before is not None
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_stream_is_read_as_often_as_it_is_asked(tmp_path):
    data = saved(Image.fromarray(COLOURS), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    with open(tmp_path / "a.png", "rb") as opened:
        for source in (opened, io.BytesIO(data)):
            assert kept(source) is source
            for _ in range(2):
                assert image_size(source) == (4, 6)
                same(open_image(source), COLOURS)
    with open(tmp_path / "a.png", encoding="latin-1") as opened, pytest.raises(InputError, match="mode 'rb'"):
        open_image(opened)


def test_a_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"HEAD" + saved(Image.fromarray(COLOURS), "PNG"))
    stream.seek(4)
    for _ in range(2):
        assert image_size(stream) == (4, 6) and stream.tell() == 4
        same(open_image(stream), COLOURS)


@pytest.mark.parametrize("words", [0, 70_000])
def test_a_png_is_asked_for_its_size_without_its_pixels(words):
    turned, info, noise = Image.Exif(), PngInfo(), np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    turned[ExifTags.Base.Orientation] = 6
    info.add_text("Comment", "Raw profile type" * (words // 16))  # says so, and is none
    data = saved(Image.fromarray(noise), "PNG", pnginfo=info)
    stream = Counted(data)
    assert upright(Image.open(stream)) == (300, 200) and stream.count < words + 10_000 < len(data)
    assert image_size(saved(Image.fromarray(noise), "PNG", pnginfo=info, exif=turned)) == (200, 300)


class Counted(io.BytesIO):
    """A stream that counts the bytes that are read."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


class Once(io.RawIOBase):
    """A stream that does not go back, such as a socket's."""

    def __init__(self, data):
        self.rest = data

    def readable(self):
        return True

    def readinto(self, place):
        part, self.rest = self.rest[: len(place)], self.rest[len(place) :]
        place[: len(part)] = part
        return len(part)


def test_a_stream_that_does_not_go_back_is_kept():
    assert kept(Once(b"picture")) == b"picture"
    data = saved(Image.fromarray(COLOURS), "PNG")
    same(open_image(Once(data)), COLOURS)


def test_an_empty_path_is_told():
    with pytest.raises(InputError, match="the path of an image is empty; name an image file"):
        open_image("")
