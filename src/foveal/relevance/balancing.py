"""Opponent tensions between the ways of knowing: one distribution over patches, and a price a token (ARR-COC).

Each tension is a number with an effect of its own that can be measured: `explore` from 0 to 1 draws relevance to what
would matter without a question, `temperature` flattens it, and a `price` in gains a token decides how many tokens an
image is worth.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError

WAYS = ("propositional", "perspectival", "participatory")
FLAT = 1e-5  # of a map's height, or of 1 where that is more: deviations below it are rounding
RISEN = 1e-3  # deviations: what lies above the mean by less lies on it


@dataclass(frozen=True, kw_only=True)
class Tensions:
    """Exploit or explore (0 to 1; None: by how much the question says), focus or diversify (a temperature above 0).

    Raises InputError for numbers out of range.
    """

    explore: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.explore is not None and not 0 <= self.explore <= 1:
            raise InputError(f"explore of {self.explore}; give 0 (the question alone) to 1 (no question), or none")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"a temperature of {self.temperature}; give more than 0")


class Balancer(nn.Module):
    """Maps `[I 3 N]` in the order of WAYS to relevance `[I N]`, which sums to 1 over the patches of each image.

    Each map is standardised in its own image; their weights come from how peaked each is, through a map that learns
    and begins as equal shares. The logs of the maps' worth add up (a log-linear pool).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(2 * len(WAYS), len(WAYS))
        nn.init.zeros_(self.weigh.weight)
        nn.init.ones_(self.weigh.bias)

    def forward(
        self,
        maps: Float[Tensor, "I 3 N"],
        tensions: Tensions | None = None,
        *,
        place: Float[Tensor, "I N"] | None = None,
    ) -> Float[Tensor, "I N"]:
        """Weigh by what the maps are like, and balance."""
        weights = self.weigh(statistics(maps).to(self.weigh.weight.dtype)).to(maps.dtype)
        return balanced(maps, weights, tensions or Tensions(), place=place)


def balanced(
    maps: Float[Tensor, "I 3 N"],
    weights: Float[Tensor, "I 3"],
    tensions: Tensions,
    *,
    place: Float[Tensor, "I N"] | None = None,
) -> Float[Tensor, "I N"]:
    """Standardise, weigh, mix with what would matter without a question, which may also name a `place` (in logits)."""
    scores, share = standard(maps), unsaid(maps[:, 2])
    blind = weights * weights.new_tensor([1.0, 1.0, 0.0])  # without a question nothing couples to it
    asked, prior = ((each[..., None] * scores).sum(1) for each in (weights, blind))
    if place is not None:
        asked, share = asked + place, share * torch.exp(-place.std(-1, correction=0))
    share = share if tensions.explore is None else maps.new_full((len(maps),), tensions.explore)
    asked, prior = (each.div(tensions.temperature).softmax(-1) for each in (asked, prior))
    return asked.lerp(prior, share[:, None])


def standard(maps: Float[Tensor, "I K N"]) -> Float[Tensor, "I K N"]:
    """Each map less its mean over its deviation; one that says nothing, but for what rounding leaves, is 0."""
    apart = maps - maps.mean(-1, keepdim=True)
    variance = apart.square().mean(-1, keepdim=True)
    noise = FLAT * maps.abs().amax(-1, keepdim=True).clamp(min=1)  # dividing by less would make rounding a signal
    whole = (variance + noise.square()).clamp(min=torch.finfo(maps.dtype).tiny)
    return apart * (variance / whole) * whole.rsqrt()


def statistics(maps: Float[Tensor, "I K N"]) -> Float[Tensor, "I K2"]:
    """How peaked each map is: the highest standard score over the root of the patches, and the share above the mean."""
    scores = standard(maps)
    peak = scores.amax(-1) / math.sqrt(maps.shape[-1])
    return torch.cat([peak, (scores > RISEN).to(maps.dtype).mean(-1)], dim=1)


def unsaid(coupled: Float[Tensor, "I N"]) -> Float[Tensor, " I"]:
    """How little the question says of where to look: 1 where it couples to all patches alike, near 0 to one alone."""
    return torch.exp(-8 * coupled.std(-1, correction=0))


def affordable(keys: Float[Tensor, "I N1"], price: float, *, least: int = 64, most: int = 400) -> Int[Tensor, " I"]:
    """How many tokens each image is worth when a token costs `price`: one, and one more a split whose key pays it.

    `keys` are those of an `Allocation`, which do not rise. Raises InputError for a range that is none.
    """
    if not 1 <= least <= most:
        raise InputError(f"{least} to {most} tokens an image; give 1 or more, the fewer first")
    worth = 1 + (keys >= price).sum(-1)
    return worth.clamp(least, most).clamp(max=keys.shape[-1] + 1)
