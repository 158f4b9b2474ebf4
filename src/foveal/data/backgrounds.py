"""Backgrounds of the starter scenes: light enough for the black outlines of the drawings, and of many textures."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

INKS: dict[str, Colour] = {
    "black": (15, 15, 15), "red": (200, 20, 30), "blue": (20, 50, 190), "green": (0, 105, 45), "purple": (120, 20, 150),
    "white": (255, 255, 255),
}  # fmt: skip
PLATES: dict[str, Colour] = {"light": (255, 255, 250), "dark": (30, 30, 35)}


@dataclass(frozen=True, kw_only=True)
class Background:
    """A texture by name, its two colours, a scale (pixels of 1000), an angle, and the seed of its noise."""

    kind: str
    first: Colour
    second: Colour
    scale: float
    angle: float
    seed: int


def background(rng: np.random.Generator) -> Background:
    """A background drawn at random."""
    kind = list(KINDS)[rng.integers(len(KINDS))]
    hue, near, far = rng.random(), rng.uniform(-0.12, 0.12), rng.uniform(0.05, 0.16)
    light = rng.uniform(0.74, 0.99)
    first = colour(hue, rng.uniform(0.04, 0.4), light)
    second = colour(hue + near, rng.uniform(0.04, 0.4), light - far if light > 0.86 else light + far)
    return Background(
        kind=kind, first=first, second=second, scale=float(rng.uniform(40, 160)),
        angle=float(rng.uniform(0, math.pi)), seed=int(rng.integers(1 << 30)),
    )  # fmt: skip


def colour(hue: float, saturation: float, value: float) -> Colour:
    """Red, green and blue (0 to 255) of a colour given by hue, saturation and value (0 to 1)."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, min(max(value, 0), 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def luminance(rgb: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2)."""
    red, green, blue = ((c / 255) ** 2.2 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    """Contrast of two colours, 1 to 21 (WCAG 2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def readable(ink: str, back: Background, *, wanted: bool) -> str:
    """The plate under a word: none where the ink stands out from the background by itself, unless one is wanted."""
    if INKS[ink] == INKS["white"]:
        return "dark"
    plain = min(contrast(INKS[ink], back.first), contrast(INKS[ink], back.second)) >= 3.2 and back.kind != "noise"
    return "" if plain and not wanted else "light"


def _mix(share: np.ndarray, back: Background) -> Image.Image:
    """A picture from the share (0 to 255) of the second colour at each pixel."""
    steps = np.linspace(0, 1, 256)[:, None]
    table = np.array(back.first) * (1 - steps) + np.array(back.second) * steps
    picture = Image.fromarray(share)
    picture.putpalette(np.rint(table).astype(np.uint8).tobytes())
    return picture.convert("RGB")


def _grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    unit = 1000 / min(width, height)
    return np.arange(width, dtype=np.float32)[None] * unit, np.arange(height, dtype=np.float32)[:, None] * unit


def plain(back: Background, width: int, height: int) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (width, height), back.first)


def gradient(back: Background, width: int, height: int) -> Image.Image:
    """From one colour to the other along a line."""
    x, y = np.arange(64)[None] / 63 - 0.5, np.arange(64)[:, None] / 63 - 0.5
    share = 0.5 + 0.7 * (x * math.cos(back.angle) + y * math.sin(back.angle))
    small = Image.fromarray((255 * share.clip(0, 1)).astype(np.uint8))
    return _mix(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), back)


def radial(back: Background, width: int, height: int) -> Image.Image:
    """From one colour to the other around a point."""
    x, y = np.arange(64)[None] / 63 - 0.2 - back.angle / 5, np.arange(64)[:, None] / 63 - 0.5
    small = Image.fromarray((255 * np.hypot(x, y).clip(0, 1)).astype(np.uint8))
    return _mix(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), back)


def stripes(back: Background, width: int, height: int) -> Image.Image:
    """Bands of two colours at an angle."""
    x, y = _grid(width, height)
    phase = (x * (math.cos(back.angle) / back.scale) + y * (math.sin(back.angle) / back.scale)).astype(np.int16)
    return _mix((phase & 1).astype(np.uint8) * np.uint8(255), back)


def checker(back: Background, width: int, height: int) -> Image.Image:
    """A board of two colours."""
    x, y = _grid(width, height)
    cells = (x / back.scale).astype(np.uint8) ^ (y / back.scale).astype(np.uint8)
    return _mix((cells & 1) * np.uint8(255), back)


def dots(back: Background, width: int, height: int) -> Image.Image:
    """Round dots of one colour on the other."""
    x, y = _grid(width, height)
    across, down = x % back.scale - back.scale / 2, y % back.scale - back.scale / 2
    return _mix((across**2 + down**2 < (0.28 * back.scale) ** 2).astype(np.uint8) * np.uint8(255), back)


def noise(back: Background, width: int, height: int) -> Image.Image:
    """Grain between two colours."""
    tile = np.random.default_rng(back.seed).integers(0, 256, (128, 128), dtype=np.uint8)
    return _mix(np.tile(tile, (-(-height // 128), -(-width // 128)))[:height, :width], back)


def blobs(back: Background, width: int, height: int) -> Image.Image:
    """Soft clouds between two colours."""
    cells = np.random.default_rng(back.seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return _mix(np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)), back)


KINDS: dict[str, Callable[[Background, int, int], Image.Image]] = {
    f.__name__: f for f in (plain, gradient, radial, stripes, checker, dots, noise, blobs)
}


def paint(back: Background, width: int, height: int) -> Image.Image:
    """The background as an RGB picture of `width` x `height` pixels."""
    return KINDS[back.kind](back, width, height)
