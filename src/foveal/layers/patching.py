"""Pictures and films cut into patches that are several frames deep."""

import torch
from jaxtyping import Float
from torch import Tensor


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
