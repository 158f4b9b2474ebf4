"""Pictures and films cut into patches, which may be several frames deep."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid


def grid_of(size: Grid, side: int, *, of: str = "patches", also: int | None = None) -> Grid:
    """How many patches of `side` pixels a side stand down and across a picture (height, width).

    Raises InputError, which calls them patches `of` something, where they do not fill it; a side of `also` need not be
    filled.
    """
    if any(length < side or (length % side and length != also) for length in size):
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels (height x width) for {of} of {side}; "
            f"resize it to multiples of {side}"
        )
    return size[0] // side, size[1] // side


def patched(
    values: Float[Tensor, "T C H W"], *, patch: int, frames: int, block: int = 1
) -> tuple[Float[Tensor, "N F"], tuple[int, int, int]]:
    """The patches of a picture or film, as `core.Patches` holds them, and how many there are in time, down and across.

    A picture is all `frames` of its patches, and a film's last frame is seen again where one lacks some. Sides are
    multiples of `patch` times `block`.
    """
    values = torch.cat([values, values[-1:].expand(-len(values) % frames, -1, -1, -1)])
    rows, columns = (side // (patch * block) for side in values.shape[-2:])
    cells = values.reshape(-1, frames, values.shape[1], rows, block, patch, columns, block, patch)
    cells = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return cells.flatten(5).flatten(0, 4), (len(cells), rows * block, columns * block)
