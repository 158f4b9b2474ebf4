"""Any picture file to an upright RGB image, and bad ones to one clear line."""

import io
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from foveal.core.errors import InputError
from foveal.core.example import FEATURES, Held
from foveal.core.types import Grid

LIMIT = 200_000_000  # pixels; more in one picture is taken for a decompression bomb
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_PNG, _PNG_WORD = b"\x89PNG\r\n\x1a\n", 80  # how one begins, and how long the word before a text of it is at most
_PNG_TEXTS, _PNG_SIGNS = (b"tEXt", b"zTXt", b"iTXt"), (b"adobe.xmp", b"Raw profile type")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_TEXT = 64 << 20  # bytes of text and profiles that a PNG may hold: what Pillow reads of all together, not of each
_HEAD_ONLY = ("EPS", "MPEG")  # no pixels without another program
_GUARD = threading.Lock()
_ALL = 4  # the number of a part that is the whole picture


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A picture that no tiling cuts: its `image` is anything that `open_image` takes."""

    image: Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """A quarter of a picture by its `number`, row by row, or with 4 all of it; `image` is anything that opens."""

    image: Any
    number: int

    def box(self, size: Grid) -> tuple[int, int, int, int]:
        """Where it lies in a picture of this height and width: left, top, right, bottom."""
        (high, wide), (middle, centre) = size, (size[0] // 2, size[1] // 2)
        if self.number == _ALL:
            return 0, 0, wide, high
        top, bottom = ((0, middle), (middle, high))[self.number // 2]
        left, right = ((0, centre), (centre, wide))[self.number % 2]
        return left, top, right, bottom


def parts(image: Any) -> tuple[Part, ...]:
    """The four quarters of a picture, and all of it."""
    return tuple(Part(image=image, number=number) for number in range(_ALL + 1))


def opened_once(images: Iterable[Any]) -> Iterator[Any]:
    """The images in order; parts of one picture that follow one another share it, decoded once and let go after them.

    Raises InputError like `open_image`.
    """
    source, whole = None, None
    for image in images:
        if not isinstance(image, Part):
            source, whole = None, None
            yield image
            continue
        if whole is None or image.image is not source:
            source, whole = image.image, open_image(image.image)
        yield replace(image, image=whole)


def open_image(source: Any, *, name: str | None = None, limit: int = LIMIT) -> Image.Image:
    """An upright RGB image from a path, bytes, `Held`, a binary file, a PIL image or an array `[H W]`, `[H W 1|3|4]`.

    EXIF rotation is applied, alpha is laid over white, 16 bits are scaled to 8, an animation gives its first frame.
    Raises InputError, with what to do, for anything that is not a whole picture of at most `limit` pixels, and for
    values that no range of a picture holds.
    """
    if isinstance(source, Part):
        whole = open_image(source.image, name=name, limit=limit)
        return whole if source.number == _ALL else whole.crop(source.box((whole.height, whole.width)))
    name = name or _name(source)
    opened = _open(source, name)
    _check_size(opened.size, name, limit)
    try:
        _load(opened)
        return _rgb(ImageOps.exif_transpose(opened) if _orientation(opened) != 1 else opened, name)
    except (MemoryError, InputError):
        raise
    except Exception as broken:  # Pillow's readers raise nearly anything on broken data
        raise _unread(name, broken) from broken


def _unread(name: str, broken: Exception) -> InputError:
    """What is said of a picture that Pillow recognises and does not read."""
    _check_text(name, broken)
    return InputError(f"{name} is damaged or truncated ({_line(broken)}); replace the file")


def _check_text(name: str, broken: Exception) -> None:
    if "MAX_TEXT" in str(broken):
        raise InputError(f"{name} holds over {_TEXT >> 20} MiB of text beside its pixels; save it without") from None


def _load(opened: Image.Image) -> None:
    """Read all pixels; half a file is refused also where another library has told Pillow to fill up what is missing."""
    with _STRICT:
        opened.load()


class _Strict:
    """Within it Pillow fills up nothing and reads any one text of a PNG that all of them may be as long as.

    Threads may be in here together, and the last to leave lets Pillow as it was.
    """

    def __init__(self) -> None:
        self.inside, self.lenient, self.text = 0, False, 0

    def __enter__(self) -> None:
        with _GUARD:
            if not self.inside:
                self.text, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, _TEXT
            self.inside += 1
            self.lenient |= ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def __exit__(self, *raised: object) -> None:
        with _GUARD:
            self.inside -= 1
            if not self.inside:
                PngImagePlugin.MAX_TEXT_CHUNK = self.text
            if self.lenient and not self.inside:
                ImageFile.LOAD_TRUNCATED_IMAGES, self.lenient = True, False


_STRICT = _Strict()


def image_size(source: Any) -> Grid:
    """Height and width in pixels after EXIF rotation, from the header alone; raises InputError like `open_image`."""
    if isinstance(source, Part):
        left, top, right, bottom = source.box(image_size(source.image))
        return bottom - top, right - left
    found = stamp(source)
    return _header_size(source) if found is None else _file_size(os.fspath(source), found)


def stamp(source: Any) -> tuple[int, int] | None:
    """Bytes and time of change of a picture's file, for what is kept of it; None for what is no file that is there."""
    if isinstance(source, Part | Whole):
        return stamp(source.image)
    if not isinstance(source, str | Path):
        return None
    try:
        known = os.stat(source)
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return None
    return known.st_size, known.st_mtime_ns


def in_memory(source: Any) -> int:
    """The bytes of a picture that is no file: of its pixels, or of the file's that it is read from."""
    if isinstance(source, Part | Whole):
        return in_memory(source.image)
    if isinstance(source, Image.Image):
        return source.width * source.height * len(source.getbands())
    return int(getattr(source, "nbytes", 0)) or len(getattr(source, "data", b""))


@lru_cache(maxsize=1 << 18)
def _file_size(path: str, stamp: tuple[int, int]) -> Grid:
    return _header_size(path)


def _header_size(source: Any) -> Grid:
    name = _name(source)
    opened = _open(source, name)
    try:
        return upright(opened)
    except MemoryError:
        raise
    except Exception as broken:  # the turn of some PNGs is told behind their pixels
        raise _unread(name, broken) from broken


def upright(opened: Image.Image) -> Grid:
    """Height and width in pixels of a picture that Pillow has opened, after EXIF rotation; takes Pillow's errors."""
    width, height = opened.size
    with _STRICT:
        turned = opened.format != "TIFF" and _orientation(opened) in _SIDEWAYS  # Pillow gives a TIFF's size upright
    return (width, height) if turned else (height, width)


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation; a PNG is asked only where it may have one, for Pillow decodes it whole to find out."""
    stream = getattr(opened, "fp", None)
    if opened.format == "PNG" and stream is not None:
        place = stream.tell()
        turned = _may_be_turned(stream)
        stream.seek(place)
        if not turned:
            return 1
    return opened.getexif().get(ExifTags.Base.Orientation, 1)


def _may_be_turned(stream: Any) -> bool:
    """Whether a PNG has a chunk that may tell its orientation; the pixels are passed over unread."""
    stream.seek(len(_PNG))
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        word = stream.read(min(length, _PNG_WORD)) if kind in _PNG_TEXTS else b""
        if kind == b"eXIf" or any(sign in word.partition(b"\0")[0] for sign in _PNG_SIGNS):
            return True
        stream.seek(length - len(word) + 4, io.SEEK_CUR)  # over its checksum too
    return False


def _name(source: Any) -> str:
    if isinstance(source, str | Path):
        return str(source)
    named = getattr(source, "filename", None) or getattr(source, "name", None)
    return named if isinstance(named, str) and named else "the image"


def _open(source: Any, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, str | Path):
        source = _read(Path(source), name)
    elif isinstance(source, Held):
        source = source.data
    elif hasattr(source, "read"):
        source = _streamed(source, name)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise InputError(f"{name} is a {type(source).__name__}; give a path, bytes, a PIL image or an array")
    return _decode(bytes(source), name)


def kept(source: Any) -> Any:
    """The picture, as its bytes where it is a stream that can be read only once."""
    return source.read() if hasattr(source, "read") and not _again(source) else source


def _again(stream: Any) -> bool:
    return hasattr(stream, "seek") and bool(getattr(stream, "seekable", lambda: True)())


def _streamed(stream: Any, name: str) -> Any:
    """What is in a stream from where it stands (all, at its end), and there it stands again.

    A picture is opened for its size, and again for its pixels.
    """
    if isinstance(stream, io.TextIOBase):
        raise InputError(f"{name} is opened as text; open it as bytes, with mode 'rb'")
    if not _again(stream):
        return stream.read()
    place = stream.tell()
    if not (data := stream.read()):
        place = stream.seek(0)
        data = stream.read()
    stream.seek(place)
    return data


def _read(path: Path, name: str) -> bytes:
    if not name:
        raise InputError("the path of an image is empty; name an image file, or give None to ask without one")
    if path.suffix in FEATURES:
        raise InputError(f"{name} holds region features, and this model reads pictures; give it the picture")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such image file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a directory; name an image file in it") from None
    except PermissionError:
        raise InputError(f"{name}: no permission to read it; change its mode or its owner") from None
    except (OSError, ValueError) as failed:
        raise InputError(f"{name} cannot be read ({_line(failed)}); check the path and the disk") from None


def _decode(data: bytes, name: str) -> Image.Image:
    if not data:
        raise InputError(f"{name} is empty (0 bytes); replace it by a picture")
    try:
        opened = _identify(io.BytesIO(data))
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES):
            raise InputError(f"{name} is damaged or truncated (its head does not read); replace the file") from None
        raise InputError(
            f"{name} is not a picture that Pillow reads (it begins with {data[:12]!r}); "
            "give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from None
    except Exception as broken:
        raise _unread(name, broken) from broken
    _check_pixels(opened, name)
    return opened


def begun(source: str | io.BytesIO, name: str) -> Image.Image:
    """A picture of which the head alone has been read; raises InputError for one of no pixels or too many, and for what
    Pillow does not read.
    """
    try:
        opened = _identify(source)
    except UnidentifiedImageError:
        raise InputError(f"cannot read {name} (it is no picture that Pillow reads); replace it") from None
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        _check_text(name, error)
        raise InputError(f"cannot read {name} ({_line(error)}); replace it") from None
    _check_pixels(opened, name)
    _check_size(opened.size, name, LIMIT)
    return opened


def _identify(stream: str | io.BytesIO) -> Image.Image:
    """Read the header with Pillow's own pixel limit off: ours can then name the size."""
    with _STRICT, _GUARD:
        guard, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream)
        finally:
            Image.MAX_IMAGE_PIXELS = guard


def _check_pixels(opened: Image.Image, name: str) -> None:
    if opened.format in _HEAD_ONLY or isinstance(opened, ImageFile.StubImageFile):
        raise InputError(f"{name} is {opened.format}, of which Pillow reads the head alone; convert it to PNG or JPEG")


def _check_size(size: tuple[int, int], name: str, limit: int) -> None:
    width, height = size
    if width * height == 0:
        raise InputError(f"{name} has {width} x {height} pixels; give a picture that has some")
    if width * height > limit:
        raise InputError(
            f"{name} has {width} x {height} pixels (width x height), over the limit of {limit}; make it smaller first"
        )


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"{name} is an array of shape {array.shape}; give [H W], [H W 1], [H W 3] or [H W 4]")
    _check_size((array.shape[1], array.shape[0]), name, LIMIT)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_eight_bits(array, name))


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.round(array / 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and 0 <= array.min() <= array.max() <= 1:
        return np.round(array * 255).astype(np.uint8)
    raise InputError(
        f"{name} is an array of {array.dtype} from {array.min()} to {array.max()}; "
        "give uint8, uint16, bool, or floats from 0 to 1"
    )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _scaled(image, name).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """Whole numbers of more than 8 bits, and floats, on the range 0 to 255 (Pillow's own conversion clips them)."""
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if image.mode == "F":
        top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
    else:
        top = 65535.0 if image.mode.startswith("I;16") or high > 255 else 255.0
    eight = np.round(values * (255 / top))
    if not (eight.min() >= 0 and eight.max() <= 255):  # what is no number fails too
        raise InputError(
            f"{name} has values from {low:.7g} to {high:.7g}; bring them to 0 to 255 or 65535, or floats to 0 to 1"
        )
    return Image.fromarray(eight.astype(np.uint8))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
