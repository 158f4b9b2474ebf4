"""Where everything stands in a starter scene: canvas, drawings and words, from a seed and an index alone."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import ImageFont

from foveal.data.backgrounds import INKS, Background, background, readable
from foveal.data.drawings import aspect

RATIOS = (1.0, 1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16)  # width over height; square twice as often
TINY = 0.01  # a drawing below this share of the canvas is "tiny"
TINY_SIZE, LEAST_SIZE, MOST_SIZE = (0.055, 0.092), 0.12, 0.5  # of the shorter side of the canvas
COPIES = 5  # the most copies that are asked for


@dataclass(frozen=True, kw_only=True)
class Item:
    """A drawing or a word in a scene: its name, its pixels (left, top, right, bottom), and for words the ink."""

    name: str
    xyxy: tuple[int, int, int, int]
    ink: str = ""
    plate: str = ""
    points: int = 0

    @property
    def center(self) -> tuple[float, float]:
        return (self.xyxy[0] + self.xyxy[2]) / 2, (self.xyxy[1] + self.xyxy[3]) / 2

    @property
    def area(self) -> int:
        return (self.xyxy[2] - self.xyxy[0]) * (self.xyxy[3] - self.xyxy[1])

    @property
    def long(self) -> int:
        return max(self.xyxy[2] - self.xyxy[0], self.xyxy[3] - self.xyxy[1])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A whole scene before it is drawn."""

    width: int
    height: int
    background: Background
    drawings: tuple[Item, ...]
    words: tuple[Item, ...]
    hero: str  # a drawing that is there, each one equally often
    absent: tuple[str, str]  # two drawings that are not there: the first each one equally often
    copies: int | None  # how many heroes there are where the scene asks for copies (0: asks for the absent one)

    @property
    def short(self) -> int:
        return min(self.width, self.height)


def canvas(rng: np.random.Generator, size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height in pixels: a fixed square, or any shape with both sides between the two."""
    if isinstance(size, int):
        return size, size
    least, most = size
    ratio = RATIOS[rng.integers(len(RATIOS))]
    stretch = max(ratio, 1 / ratio)
    if least * stretch > most:
        ratio = stretch = 1.0
    short = math.exp(rng.uniform(math.log(least), math.log(most / stretch)))
    low, high = round(short), min(most, round(short * stretch))
    return (high, low) if ratio >= 1 else (low, high)


@functools.lru_cache(maxsize=16)
def _order(seed: int, count: int, block: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng((seed, 3, block)).permutation(count))


def scheduled(seed: int, index: int, count: int) -> tuple[int, int]:
    """The drawing that must be in scene `index` and one that must not: over `count` scenes each is each once."""
    block, place = divmod(index, count)
    order = _order(seed, count, block)
    return order[place], order[(place + count // 2) % count]


def held_out(first: int, second: int) -> bool:
    """Whether two drawings (by their number) are a held-out pair: a tenth of all pairs, alike for every seed."""
    return (first + second) % 10 == 0 and first != second


def kinds(rng: np.random.Generator, count: int, drawings: int, hero: int, absent: int, pairs: bool) -> list[int]:
    """`count` drawings that go with the hero: mostly different, sometimes two or three alike; never the absent one."""
    chosen: list[int] = []
    if pairs and count:
        partners = [k for k in range(drawings) if held_out(hero, k) and k != absent]
        chosen.append(partners[rng.integers(len(partners))])
    others = [int(k) for k in rng.permutation(drawings) if k not in (hero, absent, *chosen)]
    known = [hero, *chosen]
    while others and len(chosen) < count:
        kind = others.pop()
        if pairs or not any(held_out(kind, k) for k in known):
            again = int(rng.integers(2, 4)) if rng.random() < 0.08 else 1
            chosen += [kind] * again
            known.append(kind)
    # A small vocabulary can run out of drawings that may stand together: then some come again.
    fill = [k for k in known if k != hero]
    while fill and len(chosen) < count:
        chosen.append(fill[rng.integers(len(fill))])
    return chosen[:count]


def plan_copies(rng: np.random.Generator, count: int, most: int) -> int | None:
    """How many heroes stand among `count` drawings: 0 to 5 equally often over all scenes, or None (not asked)."""
    top = min(COPIES, most)
    copies = int(rng.integers(top + 1))
    enough = most - max(copies, 1) + 1  # how many of the possible counts, 1 to `most`, hold that many copies
    if copies > count or rng.random() * enough > most - top + 1:
        return None
    return copies


def sizes(rng: np.random.Generator, count: int, width: int, height: int, detail: float = 1.0) -> list[float]:
    """Sizes (square root of the area) of the drawings in pixels: mostly a tenth to a third of the shorter side."""
    short = min(width, height)
    lot = rng.random(count)
    tiny = np.exp(rng.uniform(np.log(TINY_SIZE[0]), np.log(TINY_SIZE[1]), count)) * detail
    middle = np.exp(rng.uniform(np.log(LEAST_SIZE), np.log(0.33), count))
    large = rng.uniform(0.33, MOST_SIZE, count)
    result = np.where(lot < 0.2, tiny, np.where(lot < 0.9, middle, large))
    room = 0.42 * width * height / short**2
    used = float((result**2).sum())
    if used > room:
        result = np.where(result < LEAST_SIZE, result, np.maximum(result * math.sqrt(room / used), LEAST_SIZE))
    return [float(s) * short for s in result]


def _free(box: tuple[int, int, int, int], taken: list[tuple[int, int, int, int]], gap: int) -> bool:
    left, top, right, bottom = box
    return all(
        right + gap <= other[0] or other[2] + gap <= left or bottom + gap <= other[1] or other[3] + gap <= top
        for other in taken
    )


def place(
    rng: np.random.Generator, wide: int, high: int, width: int, height: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """A free place for a box: first within a region of the 3x3 grid that is drawn at random, then anywhere."""
    edge = max(2, min(width, height) // 80)
    if wide + 2 * edge > width or high + 2 * edge > height:
        return None
    column, row = rng.integers(3), rng.integers(3)
    spots = rng.random((40, 2))
    spots[:16, 0] = (column + 0.12 + 0.76 * spots[:16, 0]) / 3
    spots[:16, 1] = (row + 0.12 + 0.76 * spots[:16, 1]) / 3
    for across, down in spots.tolist():
        left = min(max(round(across * width - wide / 2), edge), width - edge - wide)
        top = min(max(round(down * height - high / 2), edge), height - edge - high)
        box = (left, top, left + wide, top + high)
        if _free(box, taken, edge):
            return box
    return None


@functools.lru_cache(maxsize=256)
def font(points: int) -> ImageFont.FreeTypeFont:
    """The font that comes with PIL, so that none of the system is needed."""
    return ImageFont.load_default(points)  # pyright: ignore[reportReturnType]


@functools.lru_cache(maxsize=4096)
def text_box(word: str, points: int) -> tuple[int, int, int, int]:
    """The ink of a word that is written at (0, 0), in pixels; the font's own box holds empty margins too."""
    mask, (across, down) = font(points).getmask2(word, mode="L", stroke_width=stroke(points))
    left, top, right, bottom = mask.getbbox()
    return left + across, top + down, right + across, bottom + down


def stroke(points: int) -> float:
    """The extra weight of letters, in pixels: the bundled font is thin."""
    return points / 40


def place_drawings(
    rng: np.random.Generator, labels: list[str], width: int, height: int, taken: list[tuple[int, int, int, int]],
    detail: float = 1.0,
) -> list[Item]:  # fmt: skip
    """Each drawing in a place of its own, the largest first; what finds no room is made smaller."""
    short, items, (least, most) = min(width, height), [], (TINY_SIZE[0] * detail, TINY_SIZE[1] * detail)
    drawn = sizes(rng, len(labels), width, height, detail)
    for size, name in sorted(zip(drawn, labels, strict=True), key=lambda p: -p[0]):
        root = math.sqrt(aspect(name))
        while True:
            fit = min(size, MOST_SIZE * short / max(root, 1 / root))
            box = place(rng, max(3, round(fit * root)), max(3, round(fit / root)), width, height, taken)
            if box is not None or size < least * short:
                break
            size *= 0.85
            if most < size / short < LEAST_SIZE:
                size = most * short
        if box is not None:
            taken.append(box)
            items.append(Item(name=name, xyxy=box))
    return items


def place_words(
    rng: np.random.Generator, words: list[str], back: Background, width: int, height: int,
    taken: list[tuple[int, int, int, int]], detail: float = 1.0,
) -> list[Item]:  # fmt: skip
    """Words in several sizes and in inks of their own, on a plate where the background asks for one."""
    short, items = min(width, height), []
    inks = [list(INKS)[i] for i in rng.permutation(len(INKS))]
    for word, ink in zip(words, inks, strict=False):
        points = max(14, round(short * detail * math.exp(rng.uniform(math.log(0.07), math.log(0.17)))))
        plate = readable(ink, back, wanted=rng.random() < 0.3)
        for _ in range(3):
            left, top, right, bottom = text_box(word, points)
            pad = 2 + points // 6 if plate else 0
            box = place(rng, right - left + 2 * pad, bottom - top + 2 * pad, width, height, taken)
            if box is not None:
                taken.append(box)
                tight = (box[0] + pad, box[1] + pad, box[2] - pad, box[3] - pad)
                items.append(Item(name=word, xyxy=tight, ink=ink, plate=plate, points=points))
                break
            points = max(14, round(points * 0.7))
    return items


def compose(
    *, seed: int, index: int, size: int | tuple[int, int], drawings: tuple[str, ...], words: tuple[str, ...],
    max_drawings: int, pairs: bool, detail: float = 1.0,
) -> Layout:  # fmt: skip
    """The layout of scene `index`: it depends on nothing but these arguments."""
    rng = np.random.default_rng((seed, int(pairs), index))
    width, height = canvas(rng, size)
    hero, absent = scheduled(2 * seed + pairs, index, len(drawings))
    partners = [k for k in range(len(drawings)) if held_out(hero, k)]
    if pairs and partners == [absent]:  # of few drawings the only one that makes a pair may not be the absent one
        absent = (absent + 1) % len(drawings)
    count = int(rng.integers(1 + pairs, max_drawings + 1))
    copies = plan_copies(rng, count - pairs, max_drawings - pairs)
    heroes = max(1, copies or 1)
    chosen = kinds(rng, count - heroes, len(drawings), hero, absent, pairs)
    missing = [k for k in range(len(drawings)) if k not in (hero, absent, *chosen)]
    also = missing[rng.integers(len(missing))]
    back = background(rng)
    amount = min(int(rng.choice(4, p=(0.25, 0.4, 0.25, 0.1))), len(words))
    spoken = [words[i] for i in rng.choice(len(words), amount, replace=False)]
    taken: list[tuple[int, int, int, int]] = []
    written = place_words(rng, spoken, back, width, height, taken, detail)
    items = place_drawings(rng, [drawings[k] for k in [hero] * heroes + chosen], width, height, taken, detail)
    return Layout(
        width=width, height=height, background=back, drawings=tuple(items), words=tuple(written),
        hero=drawings[hero], absent=(drawings[absent], drawings[also]), copies=copies,
    )  # fmt: skip
