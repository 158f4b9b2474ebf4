"""HoloV (2510.02912): every crop of the image has a share of the budget, by what is attended to and what varies in it.

Behind the connector; needs the encoder's attention.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import attention_of, likeness, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image, out of so many `crops`; a greater `alpha` weighs what varies more."""

    budget: int = 64
    crops: int = 16
    alpha: float = 0.09


class Holov(Choosing):
    """Crops are stretches of patches in raster order; each keeps its most attended patches, up to its share."""

    name = "holov"
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, crops: int = 16, alpha: float = 0.09) -> None:
        if crops < 1 or alpha < 0:
            raise InputError(f"{crops} crops and an alpha of {alpha:g} for strategy 'holov'; give 1, and 0, or more")
        super().__init__(budget=budget)
        self.crops, self.alpha = crops, alpha

    def choose(self, among: Among) -> Shares:
        """Share out, then attend."""
        attention = attention_of(among.visual, among.images, name=self.name)
        return picked(holistic(among.features, attention, self.budget, self.crops, self.alpha), among.features.shape[1])


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
    alike = likeness(units, units).masked_fill(torch.eye(count, device=units.device).bool(), 0.0)
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
