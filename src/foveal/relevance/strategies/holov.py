"""HoloV (2510.02912): every crop of the image has a share of the budget, by what is attended to and what varies in it.

Behind the connector; needs the encoder's attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.layers.precision import own_dtype
from foveal.relevance.spending import Shares, checked, planned, spend
from foveal.relevance.tokens import attention_of, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, out of so many `crops`; a greater `alpha` weighs what varies more."""

    budget: int = 64
    crops: int = 16
    alpha: float = 0.09


class Holov(nn.Module):
    """Crops are stretches of patches in raster order; each keeps its most attended patches, up to its share."""

    steered = False
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, crops: int = 16, alpha: float = 0.09) -> None:
        super().__init__()
        if crops < 1 or alpha < 0:
            raise InputError(f"{crops} crops and an alpha of {alpha:g} for strategy 'holov'; give 1, and 0, or more")
        self.budget, self.crops, self.alpha = checked(budget), crops, alpha

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="holov")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Share out, then attend."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares:
            attention = attention_of(visual, images, name="holov")
            return picked(holistic(features, attention, self.budget, self.crops, self.alpha), features.shape[1])

        return spend(visual, self.budget, choose, name="holov")


@torch.no_grad()
def holistic(
    features: Float[Tensor, "I N D"], attention: Float[Tensor, "I N"], budget: int, crops: int, alpha: float
) -> Int[Tensor, "I B"]:
    """The places of what each crop keeps; what a crop has no patches for goes to the most attended of the others."""
    parts = stretches(features.shape[1], crops)
    worth = torch.stack(
        [
            crop_worth(some, mine, alpha)
            for some, mine in zip(features.float().split(parts, 1), attention.split(parts, 1), strict=True)
        ],
        dim=1,
    )
    quota = shared_out(worth, budget)
    rank = [mine.argsort(dim=1, descending=True, stable=True).argsort(dim=1) for mine in attention.split(parts, 1)]
    most = quota.repeat_interleave(torch.tensor(parts, device=quota.device), dim=1)
    within = torch.cat(rank, dim=1) < most
    first = attention + within * (attention.amax(1, keepdim=True) + 1)  # all of the crops' own before any other
    return first.sort(dim=1, descending=True, stable=True).indices[:, :budget]


def stretches(count: int, crops: int) -> list[int]:
    """How many patches each crop has: the first ones one more where it does not go even."""
    crops = min(crops, count)
    return [count // crops + (number < count % crops) for number in range(crops)]


def crop_worth(features: Float[Tensor, "I n D"], attention: Float[Tensor, "I n"], alpha: float) -> Float[Tensor, " I"]:
    """The mean over a crop of attention and, in its measure, the variance of each patch's likeness to the others."""
    count, scaled = features.shape[1], attention * 1e3
    if count == 1:
        return scaled[:, 0]
    units = F.normalize(features, dim=-1, eps=1e-6)
    with own_dtype(units):
        alike = units @ units.transpose(1, 2)
    alike = alike.masked_fill(torch.eye(count, device=units.device).bool(), 0.0)
    mean = alike.sum(-1, keepdim=True) / (count - 1)
    varies = (alike - mean).square().sum(-1) / (count - 1)
    varies = varies * scaled.abs().mean(1, keepdim=True) / (varies.abs().mean(1, keepdim=True) + 1e-6)
    return (scaled + alpha * varies).mean(1)


def shared_out(worth: Float[Tensor, "I C"], budget: int) -> Int[Tensor, "I C"]:
    """Whole shares of the budget by worth, rounded down; what is left goes to the worthiest, one each."""
    share = worth / (worth.sum(1, keepdim=True) + 1e-6)
    whole = (share * budget).floor().long()
    rank = share.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return whole + (rank < budget - whole.sum(1, keepdim=True)).long()
