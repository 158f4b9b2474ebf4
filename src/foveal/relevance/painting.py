"""What tokens on no grid are worth, laid over their picture by the boxes in which they lie."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.types import Relevance
from foveal.layers.precision import own_dtype

SIDE = 16  # cells along each side of a picture


def painted(
    maps: Float[Tensor, "I K N"],
    shares: Float[Tensor, "I N"],
    boxes: Float[Tensor, "I N 4"],
    kept: Bool[Tensor, "I N"],
    *,
    names: tuple[str, ...],
) -> list[Relevance]:
    """The maps of each image's tokens as their mean over the boxes (x0 y0 x1 y1 as fractions) that hold a cell, 0 where
    none does; a share is spread over its box. The boxes of those that were `kept` are the tokens.
    """
    inside = _inside(boxes.flatten(0, 1)).unflatten(0, boxes.shape[:2]).to(maps.dtype)
    spread = inside / inside.sum((2, 3), keepdim=True)
    with own_dtype(maps):
        over = torch.einsum("ikn,inrc->ikrc", maps, inside) / inside.sum(1).clamp(min=1)[:, None]
        share = torch.einsum("in,inrc->irc", shares.to(maps.dtype), spread)
    cells = boxes[..., [1, 0, 3, 2]].float() * SIDE
    parts = zip(over, share, cells, kept, strict=True)
    return [Relevance(names=names, maps=each, shares=own, boxes=at[held]) for each, own, at, held in parts]


def _inside(boxes: Float[Tensor, "N 4"]) -> Bool[Tensor, "N R C"]:
    """Which cells have their middle in each box; of one too thin for any, the cell in which its own middle lies."""
    middles = (torch.arange(SIDE, device=boxes.device) + 0.5) / SIDE
    left, top, right, bottom = boxes.unbind(1)

    def along(begin: Tensor, end: Tensor) -> Tensor:
        within = (middles >= begin[:, None]) & (middles < end[:, None])
        nearest = ((begin + end) / 2 * SIDE).long().clamp(0, SIDE - 1)
        return within | (~within.any(1, keepdim=True) & (torch.arange(SIDE, device=boxes.device) == nearest[:, None]))

    return along(top, bottom)[:, :, None] & along(left, right)[:, None]
