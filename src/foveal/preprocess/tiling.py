"""How an image of any size becomes tiles for an encoder of one size: told from its height and width alone.

Each kind is one function from a size to a `Sliced`: what the image is resized to, what is cut out of it, and in which
order the tiles stand.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal, NamedTuple

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.types import Cut, Grid
from foveal.preprocess.films import together
from foveal.preprocess.naflex import filling

Kind = Literal["anyres", "grid", "uhd", "split", "fitted", "native", "covering", "covering_turned", "area", "naflex"]
View = Literal["first", "last", "none"]
Box = tuple[int, int, int, int]  # left, top, right, bottom

_THINNEST = 200  # times as long as wide
_LARGEST = 4096  # pixels of an edge that `split` resizes to at most
_COVERED = 0.9  # of an image that `covering` wants seen at its own size


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut into tiles of `tile` x `tile` pixels; a `view` of the whole stands before or after them.

    `anyres` fits an image into the best of `pinpoints` (heights and widths) and leaves the padding's tokens out
    (LLaVA-NeXT). `grid` stretches it over `least` to `most` rows and columns. `uhd` cuts up to about `most` slices of
    the image's own aspect ratio, each of at most `tile` x `tile` pixels in patches of `patch` (LLaVA-UHD, 2403.11703).
    `split` brings the longest edge to `longest` and cuts multiples of a tile out of it, or with `most` of 1 makes one
    tile of it (Idefics3, 2408.12637). `fitted`
    fits it into the arrangement of up to `most` tiles that it fills best (Llama 3.2). `native` keeps its shape in one
    tile, with edges of `shortest` to `longest` pixels, and with `quarters` each of its quarters in another before it
    (IDEFICS-2, 2405.02246). `covering` stretches it over the fewest
    tiles, up to `most`, in which nine tenths of it lose no size (Ovis 2); of these, `covering_turned` takes rows for
    columns, as transformers does. `area` keeps its shape in one, of sides that are multiples of the tile and of at
    least and at most so many `pixels`, for patches of `patch` that are `depth` frames deep (Qwen2-VL, 2409.12191); what
    is too `thin` for it is refused, or brought to a shape that is not (Ovis 2.5, 2508.11737). `naflex` keeps its shape
    in as many such multiples, up to `most`, as it fills at one scale (SigLIP 2, 2502.14786). A `film` has
    other limits of pixels, for each frame or all `together`; one of `split` the longest edge that its frames have on
    their way to a tile. With `alone`, pictures of a conversation that shows several are not cut: each is padded to a
    square, in one tile (LLaVA-OneVision, 2408.03326). Raises InputError for numbers out of range.
    """

    kind: Kind = "anyres"
    tile: int = 336
    view: View = "first"
    pinpoints: tuple[Grid, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    least: int = 1
    most: int = 4
    patch: int = 14
    shortest: int = 378
    longest: int = 1456
    pixels: tuple[int, int] = later((56 * 56, 28 * 28 * 1280))
    depth: int = later(2)
    thin: Literal["refused", "brought"] = later("refused")
    film: Grid | None = later(None)
    together: bool = later(False)
    alone: bool = later(False)
    quarters: bool = later(False)

    def __post_init__(self) -> None:
        if min(self.tile, self.least, self.patch, self.shortest) < 1 or self.most < self.least:
            raise InputError(
                "a tiling of nothing; give tile, least, patch and shortest of 1 or more, and most as least"
            )
        if self.longest < self.shortest and self.kind == "native":
            raise InputError(f"edges of {self.shortest} to {self.longest} pixels; give shortest up to longest")
        if self.kind == "area" and (
            self.tile % self.patch or self.depth < 1 or not 0 < self.pixels[0] <= self.pixels[1]
        ):
            raise InputError(
                f"an area of {self.pixels[0]} to {self.pixels[1]} pixels in multiples of {self.tile} for patches of "
                f"{self.patch}, {self.depth} frames deep; give a tile that patches fill, and pixels from few to many"
            )
        if self.kind == "naflex" and (self.tile % self.patch or self.depth < 1):
            raise InputError(
                f"multiples of {self.tile} pixels for patches of {self.patch}, {self.depth} frames deep; give a tile "
                "that patches fill"
            )
        if self.kind == "uhd" and self.tile < self.patch:
            raise InputError(f"tiles of {self.tile} pixels with patches of {self.patch}; give patches that fit in")
        for height, width in self.pinpoints if self.kind == "anyres" else ():
            if height < 1 or width < 1 or height % self.tile or width % self.tile:
                raise InputError(
                    f"a pinpoint of {height} x {width} for tiles of {self.tile}; give multiples of the tile"
                )
        if self.kind == "anyres" and not self.pinpoints:
            raise InputError("no pinpoints to fit images into; give at least one height and width")

    def __call__(self, size: Grid) -> "Sliced":
        """What becomes of an image of this height and width."""
        return _sliced(self, size)

    @property
    def packed(self) -> bool:
        """Whether images become patches of their own shape, end to end, and nothing is filled up."""
        return self.kind in ("area", "naflex")

    def frames(self, size: Grid, count: int) -> Cut:
        """A video of so many frames of this size, each in one tile; raises InputError where none is read."""
        if self.kind == "fitted":
            raise InputError("a video, but this model reads none; give pictures, as some of its frames")
        tile = self(size).cut.tile if self.packed and self.film is None else (self.tile, self.tile)
        if self.packed and self.film is not None:
            find = partial(together, count=count, depth=self.depth) if self.together else area
            tile = find(size, multiple=self.tile, pixels=self.film)
        return Cut(tile=tile, size=size, frames=count)

    def smaller(self) -> Iterator["Tiling"]:
        """The same with fewer tiles, the most of them first."""
        if self.kind == "anyres":
            areas = sorted({height * width for height, width in self.pinpoints}, reverse=True)
            for area in areas[1:]:
                yield replace(self, pinpoints=tuple(one for one in self.pinpoints if one[0] * one[1] <= area))
        elif self.kind == "split":
            for tiles in range((self.longest - 1) // self.tile, 0, -1):
                yield replace(self, longest=tiles * self.tile)
        elif self.kind == "area":
            for most in range(self.pixels[1] // self.tile**2 - 1, max(1, self.pixels[0] // self.tile**2) - 1, -1):
                yield replace(self, pixels=(self.pixels[0], max(most * self.tile**2, self.pixels[0])))
        elif self.kind == "native":
            for longest in range(self.longest - self.patch, self.shortest, -self.patch):
                yield replace(self, longest=longest)
        else:
            for most in range(self.most - 1, self.least - 1, -1):
                yield replace(self, most=most)


class Sliced(NamedTuple):
    """The tiles of an image: resized to the `sizes` in turn, laid on a `canvas` at its `corner` (top, left), cut.

    Each of the `boxes` is brought to the tiles' size where it has another; the view is made of the image itself, or
    with `late` of the resized one.
    """

    cut: Cut
    sizes: tuple[Grid, ...]
    canvas: Grid
    boxes: tuple[Box, ...]
    corner: Grid = (0, 0)
    late: bool = False


@lru_cache(maxsize=1 << 14)
def _sliced(tiling: Tiling, size: Grid) -> Sliced:
    if min(size) < 1:
        raise InputError(f"an image of {size[0]} x {size[1]} pixels (height x width); give one that has some")
    return _KINDS[tiling.kind](tiling, size)


def best_resolution(size: Grid, choices: tuple[Grid, ...]) -> Grid:
    """The choice in which most of an image is left, and of those the one with least beside it; the first wins."""

    def worth(choice: Grid) -> tuple[int, int]:
        scale = min(choice[1] / size[1], choice[0] / size[0])
        left = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return left, left - choice[0] * choice[1]

    return max(choices, key=worth)


def _anyres(tiling: Tiling, size: Grid) -> Sliced:
    best = best_resolution(size, tiling.pinpoints)
    across, down = best[1] / size[1], best[0] / size[0]
    if across < down:
        fitted = (min(math.ceil(size[0] * across), best[0]), best[1])
    else:
        fitted = (best[0], min(math.ceil(size[1] * down), best[1]))
    corner = ((best[0] - fitted[0]) // 2, (best[1] - fitted[1]) // 2)
    cut = _cut(tiling, size, (best[0] // tiling.tile, best[1] // tiling.tile), padded=True)
    return Sliced(cut, (fitted,), best, _boxes(cut.grid, tiling.tile), corner)


def _grid(tiling: Tiling, size: Grid) -> Sliced:
    rows, columns = (min(max(math.ceil(side / tiling.tile), tiling.least), tiling.most) for side in size)
    return _stretched(tiling, size, (rows, columns))


def _stretched(tiling: Tiling, size: Grid, grid: Grid) -> Sliced:
    whole = (grid[0] * tiling.tile, grid[1] * tiling.tile)
    if grid == (1, 1) and tiling.view != "none":
        return Sliced(_cut(tiling, size, (0, 0)), (), size, ())
    return Sliced(_cut(tiling, size, grid), (whole,), whole, _boxes(grid, tiling.tile))


def slices(size: Grid, *, tile: int, most: int) -> Grid:
    """Rows and columns of the slices whose aspect ratio is nearest to the image's: as many as its area has tiles, one
    fewer or one more (LLaVA-UHD's rule; the first of two equal ones wins)."""
    ideal = min(math.ceil(size[0] * size[1] / tile**2), most)
    numbers = (ideal, ideal + 1) if ideal <= 2 else (ideal - 1, ideal, ideal + 1)
    choices = [(number // wide, wide) for number in numbers for wide in range(1, number + 1) if number % wide == 0]
    ratio = math.log(size[1] / size[0])
    return min(choices, key=lambda grid: abs(math.log(grid[1] / grid[0]) - ratio))


def patched(size: Grid, *, tile: int, patch: int) -> Grid:
    """The size in whole patches, at most those of a tile, that keeps an image's shape best."""
    most = (tile // patch) ** 2
    scale = math.sqrt(most * (patch / size[0]) * (patch / size[1]))
    rows, columns = (max(min(math.floor(scale * side / patch), most), 1) for side in size)
    return rows * patch, columns * patch


def covering(size: Grid, *, tile: int, most: int) -> Grid:
    """Rows and columns of the fewest tiles whose parts of an image cover it, or of those that do so best (Ovis 2)."""
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    grids.sort(key=math.prod)  # stable: of equal numbers the first rows win
    covered = {grid: _covered(size, grid, tile) for grid in grids}
    enough = [grid for grid in grids if covered[grid] > _COVERED]
    if enough:
        return min(enough, key=lambda grid: (math.prod(grid), -covered[grid]))
    return min(grids, key=lambda grid: (-covered[grid], math.prod(grid)))


def _covered(size: Grid, grid: Grid, tile: int) -> float:
    """How much of an image is left where each part that is longer than a tile is shrunk into one, in its shape."""
    (heights, widths), left = (_parts(side, count) for side, count in zip(size, grid, strict=True)), 0.0
    for high in heights:
        for wide in widths:
            long, short = max(high, wide), min(high, wide)
            left += tile * (short / long * tile) if long > tile else long * short
    return left / (size[0] * size[1])


def _parts(side: int, count: int) -> list[int]:
    """A side in equal parts, of which the last takes the rest."""
    return [side // count] * (count - 1) + [side - side // count * (count - 1)]


def _covering(tiling: Tiling, size: Grid) -> Sliced:
    return _stretched(tiling, size, covering(size, tile=tiling.tile, most=tiling.most))


def _turned(tiling: Tiling, size: Grid) -> Sliced:
    rows, columns = covering(size, tile=tiling.tile, most=tiling.most)
    return _stretched(tiling, size, (columns, rows))


def _uhd(tiling: Tiling, size: Grid) -> Sliced:
    rows, columns = slices(size, tile=tiling.tile, most=tiling.most)
    alone = (rows, columns) == (1, 1) and tiling.view != "none"
    cut = _cut(tiling, size, (0, 0) if alone else (rows, columns))
    cut = replace(cut, tile=patched(size, tile=tiling.tile, patch=tiling.patch))
    height, width = size
    boxes = tuple(
        (
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
        )
        for row in range(rows)
        for column in range(columns)
    )
    return Sliced(cut, (), size, () if alone else boxes)


def _split(tiling: Tiling, size: Grid) -> Sliced:
    scaled = _below(_longest(size, tiling.longest), _LARGEST)
    ratio = scaled[1] / scaled[0]
    if tiling.most == 1:
        whole = (tiling.tile, tiling.tile)
    elif scaled[1] >= scaled[0]:
        wide = _multiple(scaled[1], tiling.tile)
        whole = (_multiple(int(wide / ratio), tiling.tile), wide)
    else:
        high = _multiple(scaled[0], tiling.tile)
        whole = (high, _multiple(int(high * ratio), tiling.tile))
    grid = (whole[0] // tiling.tile, whole[1] // tiling.tile)
    if grid == (1, 1) and tiling.view != "none":
        return Sliced(_cut(tiling, size, (0, 0)), (scaled, whole), whole, (), late=True)
    return Sliced(_cut(tiling, size, grid), (scaled, whole), whole, _boxes(grid, tiling.tile), late=True)


def _longest(size: Grid, edge: int) -> Grid:
    """The size with this longest edge, the other one even."""
    ratio = size[1] / size[0]
    height, width = (int(edge / ratio), edge) if size[1] >= size[0] else (edge, int(edge * ratio))
    height, width = (height + height % 2, width) if size[1] >= size[0] else (height, width + width % 2)
    return max(height, 1), max(width, 1)


def _below(size: Grid, edge: int) -> Grid:
    ratio = size[1] / size[0]
    if size[1] >= size[0] and size[1] > edge:
        size = (int(edge / ratio), edge)
    elif size[0] > edge:
        size = (edge, int(edge * ratio))
    return max(size[0], 1), max(size[1], 1)


def _multiple(side: int, of: int) -> int:
    return max(1, math.ceil(side / of)) * of


def _fitted(tiling: Tiling, size: Grid) -> Sliced:
    numbers = range(1, tiling.most + 1)
    grids = [(rows, columns) for rows in numbers for columns in numbers if rows * columns <= tiling.most]
    scales = [min(rows * tiling.tile / size[0], columns * tiling.tile / size[1]) for rows, columns in grids]
    larger = [scale for scale in scales if scale >= 1]
    wanted = min(larger) if larger else max(scales)
    best = [grid for grid, scale in zip(grids, scales, strict=True) if scale == wanted]
    rows, columns = min(best, key=math.prod)
    whole = (rows * tiling.tile, columns * tiling.tile)
    high, wide = (min(max(side, tiling.tile), room) for side, room in zip(size, whole, strict=True))
    down, across = high / size[0], wide / size[1]
    if across < down:
        fitted = (min(math.floor(size[0] * across) or 1, high), wide)
    else:
        fitted = (high, min(math.floor(size[1] * down) or 1, wide))
    return Sliced(_cut(tiling, size, (rows, columns)), (fitted,), whole, _boxes((rows, columns), tiling.tile))


def _native(tiling: Tiling, size: Grid) -> Sliced:
    ratio, (height, width) = size[1] / size[0], size
    if width >= height and width > tiling.longest:
        height, width = int(tiling.longest / ratio), tiling.longest
    elif height > width and height > tiling.longest:
        height, width = tiling.longest, int(tiling.longest * ratio)
    own = (max(height, tiling.shortest), max(width, tiling.shortest))
    return Sliced(Cut(tile=own, size=size), (), size, ())


def area(size: Grid, *, multiple: int, pixels: tuple[int, int]) -> Grid:
    """The size nearest to an image's in shape whose sides are multiples, of so many pixels at least and at most.

    Raises InputError for one more than 200 times as long as wide, as the reference does.
    """
    if max(size) > _THINNEST * min(size):
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels (height x width) is too long and thin: one side may be up to "
            f"{_THINNEST} times the other; crop it"
        )
    return _within(size, multiple=multiple, pixels=pixels)


def thickened(size: Grid, *, least: int) -> Grid:
    """The size of an image of any shape whose sides have `least` pixels, or are at most 200 times each other's.

    One that is smaller grows in its shape; only one that is not loses length (Ovis 2.5).
    """
    height, width = size
    if min(size) < least:
        return (least, round(least / height * width)) if height < width else (round(least / width * height), least)
    return min(height, _THINNEST * width), min(width, _THINNEST * height)


def _within(size: Grid, *, multiple: int, pixels: tuple[int, int]) -> Grid:
    height, width = (round(side / multiple) * multiple for side in size)
    if height * width > pixels[1]:
        scale = math.sqrt(size[0] * size[1] / pixels[1])
        height, width = (max(multiple, math.floor(side / scale / multiple) * multiple) for side in size)
    elif height * width < pixels[0]:
        scale = math.sqrt(pixels[0] / (size[0] * size[1]))
        height, width = (math.ceil(side * scale / multiple) * multiple for side in size)
    return height, width


def _area(tiling: Tiling, size: Grid) -> Sliced:
    find, shape = (area, size) if tiling.thin == "refused" else (_within, thickened(size, least=tiling.tile))
    own = find(shape, multiple=tiling.tile, pixels=tiling.pixels)
    return Sliced(Cut(tile=own, size=size), (), size, ())


def _naflex(tiling: Tiling, size: Grid) -> Sliced:
    own = filling(size, multiple=tiling.tile, most=tiling.most)
    return Sliced(Cut(tile=own, size=size), (), size, ())


def _cut(tiling: Tiling, size: Grid, grid: Grid, *, padded: bool = False) -> Cut:
    return Cut(tile=(tiling.tile, tiling.tile), size=size, grid=grid, view=tiling.view, padded=padded)


def _boxes(grid: Grid, tile: int) -> tuple[Box, ...]:
    return tuple(
        (column * tile, row * tile, (column + 1) * tile, (row + 1) * tile)
        for row in range(grid[0])
        for column in range(grid[1])
    )


_KINDS: Mapping[Kind, Callable[[Tiling, Grid], Sliced]] = {
    "anyres": _anyres,
    "grid": _grid,
    "uhd": _uhd,
    "split": _split,
    "fitted": _fitted,
    "native": _native,
    "covering": _covering,
    "covering_turned": _turned,
    "area": _area,
    "naflex": _naflex,
}
