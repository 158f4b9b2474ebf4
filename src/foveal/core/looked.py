"""Where a strategy looked: on the grid of an image's tokens, and over the picture that it was.

Letters: K maps, R C rows and columns of the grid, B tokens, H W height and width of the picture.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.pixels import Movable


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no one answer to whether they are equal
class Relevance(Movable):
    """What a strategy found in each of some images on a grid: its `maps` by the names in their order, and what they
    come to, `shares`, which sum to 1; `boxes` are the tokens that were made (row0, col0, row1, col1 in patches).
    """

    names: tuple[str, ...]
    maps: Float[Tensor, "K R C"]
    shares: Float[Tensor, "R C"]
    boxes: Float[Tensor, "B 4"]


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no one answer to whether they are equal
class Looked:
    """What a strategy `found` in a picture, over the picture: `boxes` are in its pixels (y0, x0, y1, x1), and maps and
    shares have its height and width, and are made when they are first read. Shares sum to 1.

    `rows` and `columns` tell which cell of the grid lies under each pixel (-1: none does, and maps are 0).
    """

    found: Relevance
    boxes: Float[Tensor, "B 4"]
    rows: Int[Tensor, " H"]
    columns: Int[Tensor, " W"]

    @property
    def names(self) -> tuple[str, ...]:
        """What the maps are of."""
        return self.found.names

    @cached_property
    def maps(self) -> Float[Tensor, "K H W"]:
        """The maps by the names."""
        return self._over(self.found.maps)

    @cached_property
    def shares(self) -> Float[Tensor, "H W"]:
        """What they come to."""
        shares = self._over(self.found.shares[None])[0]
        return shares.div_(shares.sum().clamp(min=torch.finfo(shares.dtype).tiny))

    def _over(self, maps: Float[Tensor, "K R C"]) -> Float[Tensor, "K H W"]:
        none = ((self.rows < 0)[:, None], self.columns < 0)
        over = maps.cpu().float()[:, self.rows.clamp(min=0)][:, :, self.columns.clamp(min=0)]
        return over.masked_fill_(none[0], 0.0).masked_fill_(none[1], 0.0)
