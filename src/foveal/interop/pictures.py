"""Where the visual tokens of a transformers model lie: in its text, and in their picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid
from foveal.interop.told import Told

ANYRES = ("llava_next", "llava_onevision")  # a view, then tiles joined to one grid whose rows end in newlines
NATIVE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # any number of rows and columns
TILED = ("internvl", "idefics3", "smolvlm")  # tiles one after the other, the view last
FAMILIES = ("llava", *ANYRES, *NATIVE, *TILED)
OUT = "call model.foveal.restore() and begin anew to read all tokens"
ANEW = "start the conversation anew, without past_key_values"
_MARK = "foveal_spots"  # goes with the features of an image, which generate() repeats and reorders


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A grid among the tokens of a picture: the number of its first cell, and how many tokens lie from row to row."""

    begin: int
    grid: Grid
    stride: int

    @property
    def cells(self) -> tuple[int, ...]:
        """The numbers of its tokens, row by row."""
        rows, columns = self.grid
        return tuple(self.begin + row * self.stride + column for row in range(rows) for column in range(columns))


@dataclass(frozen=True, kw_only=True)
class Spots:
    """The `count` tokens of a picture: its `pieces`, of which number `view` shows all of it; others lie on no grid."""

    count: int
    pieces: tuple[Piece, ...]
    view: int = 0

    @property
    def loose(self) -> tuple[int, ...]:
        """The numbers of the tokens on no grid: newlines, and a class token."""
        return tuple(sorted(set(range(self.count)) - {cell for piece in self.pieces for cell in piece.cells}))

    @classmethod
    def of_grid(cls, grid: Grid) -> "Spots":
        """One grid and nothing else."""
        return cls(count=grid[0] * grid[1], pieces=(Piece(begin=0, grid=grid, stride=grid[1]),))

    @classmethod
    def square(cls, count: int, tiles: int = 1) -> "Spots":
        """So many square tiles, the view the last; a class token may stand before a single one.

        Raises InputError for tokens that make no square.
        """
        each = count // tiles
        side = math.isqrt(each)
        extra = each - side * side
        if side < 1 or extra > (tiles == 1):
            raise InputError(f"{each} visual tokens lie on no square grid that a budget could be spent on; {OUT}")
        pieces = (Piece(begin=extra + tile * each, grid=(side, side), stride=side) for tile in range(tiles))
        return cls(count=count, pieces=tuple(pieces), view=tiles - 1)

    @classmethod
    def lined(cls, newline: Bool[Tensor, " N"], view: Grid, begin: int = 0) -> "Spots":
        """A view, then a grid whose rows end in newlines, or one newline alone."""
        ends, first = newline.nonzero()[:, 0].tolist(), begin + view[0] * view[1]
        pieces = [Piece(begin=begin, grid=view, stride=view[1])]
        if len(newline) - first > len(ends):
            stride = ends[0] - first + 1
            pieces.append(Piece(begin=first, grid=(len(ends), stride - 1), stride=stride))
        return cls(count=len(newline), pieces=tuple(pieces))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image: the row of its text, the columns of its tokens there, and where these lie in it."""

    row: int
    columns: tuple[int, ...]
    spots: Spots


def listen(base: Any) -> list[Told]:
    """Mark what the model finds in images with where it lies, from now on until these are removed."""
    family = base.config.model_type
    if family in TILED:
        return []
    if family in ANYRES:
        return [Told(base, "pack_image_features", _packed)]
    return [Told(base, "get_image_features", _marked)]


def _packed(told: Told, given: dict[str, Any], made: Any) -> None:
    """Pack once more, newlines as ones and all else as zeros: the model's own rounding tells where they fall."""
    shown = given["image_features"]
    blank = [features.new_zeros(*features.shape[:2], 1) for features in shown]
    ends, _ = told.__wrapped__(**{**given, "image_features": blank, "image_newline": shown[0].new_ones(1)})
    vision = told.owner.config.vision_config
    side = vision.image_size // vision.patch_size
    for features, newline, tiles in zip(made[0], ends, shown, strict=True):
        spots = Spots.lined(newline[:, 0] == 1, (side, side), tiles.shape[1] - side * side)
        setattr(features, _MARK, spots)


def _marked(told: Told, given: dict[str, Any], made: Any) -> None:
    for features, spots in zip(made.pooler_output, _lying(told.owner, made.pooler_output, given), strict=True):
        setattr(features, _MARK, spots)


def _lying(base: Any, features: Sequence[Tensor] | Tensor, given: dict[str, Any]) -> Sequence[Spots | None]:
    """Where the tokens of each image lie, by the arguments that came with them; None where these do not tell."""
    family, vision = base.config.model_type, base.config.vision_config
    sizes = given.get("image_grid_thw" if family in NATIVE else "image_sizes")
    if sizes is None and family == "llava" and vision.model_type != "pixtral":
        return [Spots.square(len(shown)) for shown in features]
    if sizes is None or family in ANYRES or len(sizes) != len(features):
        return [None] * len(features)
    if family in NATIVE:
        merge = vision.spatial_merge_size
        return [Spots.of_grid((int(t * rows) // merge, int(columns) // merge)) for t, rows, columns in sizes]
    patch = base.vision_tower.patch_size
    return [Spots.of_grid((int(rows) // patch, int(columns) // patch)) for rows, columns in sizes]


def pictures(
    base: Any,
    features: Sequence[Tensor] | Tensor,
    visual: Bool[Tensor, "B L"],
    embeds: Float[Tensor, "B L D"],
    given: dict[str, Any],
) -> list[Picture]:
    """The images of a batch, whose tokens stand where `visual` says; `features` are what the encoder found, in a pass
    with these arguments `given`.

    Raises InputError where places and features do not belong together, or features came without their places.
    """
    family, ids = base.config.model_type, given.get("input_ids")
    if family in TILED:
        each = features.shape[1] if isinstance(features, Tensor) else base.image_seq_len
        words = embeds if ids is None else ids.to(embeds.device)  # in training, embeddings may have noise on them
        runs = [_tiles(visual[row], each) for row in range(len(visual))]
        parted = runs if family == "internvl" else [_ended(mine, words[row]) for row, mine in enumerate(runs)]
        return [
            Picture(row=row, columns=columns, spots=Spots.square(len(columns), len(columns) // each))
            for row, mine in enumerate(parted)
            for columns in mine
        ]
    places, begin, found = visual.nonzero().tolist(), 0, []
    lying = _lying(base, features, given)
    for number, shown in enumerate(features):
        mine = places[begin : begin + len(shown)]
        spots, rows = getattr(shown, _MARK, None) or lying[number], {row for row, _ in mine}
        if len(mine) < len(shown) or len(rows) != 1:
            raise InputError(
                f"image {number} has {len(shown)} visual tokens, and its text {len(mine)} places for them in "
                f"{len(rows)} rows; give whole images to the compressed model itself, and no part of one"
            )
        if spots is None or spots.count != len(shown):
            raise InputError(
                f"the {len(shown)} features of image {number} came without their grid, which get_image_features of a "
                "compressed model notes on them and copies lose; find them by it and give them as they are, or give "
                f"{'image_grid_thw with them' if family in NATIVE else 'pixel_values'}"
            )
        found.append(Picture(row=rows.pop(), columns=tuple(column for _, column in mine), spots=spots))
        begin += len(shown)
    return found


def _tiles(visual: Bool[Tensor, " L"], each: int) -> list[tuple[int, ...]]:
    """Neighbouring image tokens together. Raises InputError where they are no whole tiles of so many."""
    runs = _runs(visual.nonzero()[:, 0].tolist())
    for run in runs:
        if len(run) % each:
            raise InputError(f"a run of {len(run)} image tokens for tiles of {each}; give whole tiles")
    return runs


def _ended(runs: list[tuple[int, ...]], words: Tensor) -> list[tuple[int, ...]]:
    """Runs of one image together. It ends with its view, so a run led by another word than the row's last is a part of
    one; words are ids or vectors, and before the first there is none.
    """
    found, columns = [], ()
    for run in runs:
        columns += run
        if run[0] == 0 or torch.equal(words[run[0] - 1], words[runs[-1][0] - 1]):
            found.append(columns)
            columns = ()
    return found


def _runs(places: list[int]) -> list[tuple[int, ...]]:
    """Neighbouring places together."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return [tuple(run) for run in runs]
