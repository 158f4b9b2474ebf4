"""How many visual tokens images bring, and where these lie: known before a pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch.utils import _pytree as pytree

from foveal.core.errors import InputError

Grid = tuple[int, int]  # rows, columns


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many tokens each image has at one stage, and on which grid (None where they lie on none).

    `slots` are the places that each image takes in the text, where these are others than its tokens: a fusion that
    lets text look at images needs one, in which the image's first token stands. `frames` are those of each image where
    some are videos, whose grid is that of one frame; None: one each. `cut` are the grids that images on none were
    cut from, whose place in the text stays as large as it was. `moments` are the places of each image's frames in time,
    from 0 on; None: one after the other.
    """

    counts: tuple[int, ...]
    grids: tuple[Grid | None, ...]
    slots: tuple[int, ...] | None = None
    frames: tuple[int, ...] | None = None
    cut: tuple[Grid | None, ...] | None = None
    moments: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of_grids(cls, grids: "tuple[Grid, ...] | list[Grid]") -> "Layout":
        """The layout in which every image fills its grid."""
        return cls(counts=tuple(rows * columns for rows, columns in grids), grids=tuple(grids))

    @property
    def places(self) -> tuple[int, ...]:
        """How many places each image takes in the text."""
        return self.counts if self.slots is None else self.slots

    @property
    def total(self) -> int:
        """Tokens of all images together."""
        return sum(self.counts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each image's tokens begin; the last entry is the total."""
        ends = [0]
        for count in self.counts:
            ends.append(ends[-1] + count)
        return tuple(ends)

    def only(self, images: Sequence[int]) -> "Layout":
        """The counts and grids of these images alone."""
        return Layout(counts=tuple(self.counts[i] for i in images), grids=tuple(self.grids[i] for i in images))

    def filmed(self, frames: tuple[int, ...] | None) -> "Layout":
        """The layout in which as many neighbouring images as `frames` say are the frames of one.

        Raises InputError where these are not all images, for a video of no frames, and for frames of one video that
        differ in size.
        """
        if frames is None or set(frames) <= {1}:
            return self
        if sum(frames) != len(self.counts):
            raise InputError(f"{sum(frames)} frames of videos for {len(self.counts)} pictures; give each frame one")
        if min(frames) < 1:
            raise InputError(f"a video of {min(frames)} frames; give each 1 or more")
        counts, grids, begin = [], [], 0
        for number in frames:
            some, lying = self.counts[begin : begin + number], self.grids[begin : begin + number]
            if len({*zip(some, lying, strict=True)}) != 1:
                raise InputError(f"a video with frames of {min(some)} to {max(some)} tokens; bring them to one size")
            counts.append(sum(some))
            grids.append(lying[0])
            begin += number
        return Layout(counts=tuple(counts), grids=tuple(grids), frames=frames)

    def by_frame(self) -> "Layout":
        """The layout in which every frame is an image of its own: what `filmed` was made of."""
        if self.frames is None:
            return self
        counts, grids = [], []
        for count, grid, frames in zip(self.counts, self.grids, self.frames, strict=True):
            counts += [count // frames] * frames
            grids += [grid] * frames
        return Layout(counts=tuple(counts), grids=tuple(grids))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An image as tiles of `tile` pixels (height, width) each: rows and columns of them, or none (0, 0).

    The whole image in one more tile, its `view`, comes before or after them. `size` is the image's own; `padded` says
    that it fills its tiles in one direction alone. A video is so many `frames`, each in one tile. A `plain` one is a
    whole picture of that tile beside others that are cut: it is no view, and nothing stands behind it.
    """

    tile: Grid
    size: Grid
    grid: Grid = (0, 0)
    view: Literal["first", "last", "none"] = "first"
    padded: bool = False
    frames: int = 0
    plain: bool = False

    @property
    def spots(self) -> tuple[Grid, ...]:
        """Row and column of each tile in order; -1 -1 is the view or a frame."""
        if self.frames:
            return ((-1, -1),) * self.frames
        own = tuple((row, column) for row in range(self.grid[0]) for column in range(self.grid[1]))
        view = ((-1, -1),)
        return {"first": (*view, *own), "last": (*own, *view), "none": own}[self.view]

    @property
    def tiles(self) -> int:
        """How many tiles there are, the view among them."""
        return self.frames or self.grid[0] * self.grid[1] + (self.view != "none")


pytree.register_constant(Layout)
pytree.register_constant(Cut)
