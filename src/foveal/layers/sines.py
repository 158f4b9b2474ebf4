"""Fixed sines and cosines of places along a line and on a grid."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def line(count: int, width: int, *, device: torch.device | str | None = None) -> Float[Tensor, "S E"]:
    """Codes of `count` places over one turn: all sines, then all cosines, of falling frequencies (1706.03762)."""
    places = torch.arange(count, device=device) / max(count - 1, 1) * (2 * math.pi)
    rates = 10000.0 ** (-2 * (torch.arange(width, device=device) // 2) / width)
    angles = places[:, None] * rates
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1)


def grid(rows: int, columns: int, width: int, *, device: torch.device | str | None = None) -> Float[Tensor, "S E"]:
    """Codes of a grid in raster order: the row in the first half, the column in the other (Pix2Seq, 2109.10852).

    A grid of one row or column is a line.
    """
    if rows == 1 or columns == 1:
        return line(rows * columns, width, device=device)
    y, x = (line(count, width // 2, device=device) for count in (rows, columns))
    return torch.cat([y[:, None].expand(-1, columns, -1), x.expand(rows, -1, -1)], dim=-1).flatten(0, 1)
