"""Budgets that depend on what images hold: a price a token, or a total that the images of a batch share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.balancing import affordable
from foveal.relevance.spending import plain, whole_number

Keys = Tensor  # `[N1]`, what each further token of an image gains, not rising; images differ in how many


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Either a `price` a token or a `total` for all images of a batch, and `least` (None: 64, or 1 where they share a
    total) to `most` tokens an image.

    A token is bought where it gains the price: so great a share of the image's mean squared feature, by relevance.
    Raises InputError for both or neither, and for numbers that make no sense.
    """

    price: float | None = None
    total: int | None = None
    least: int | None = None
    most: int = 400

    def __post_init__(self) -> None:
        for name, given in vars(self).copy().items():
            object.__setattr__(self, name, plain(given))
        if (self.price is None) == (self.total is None):
            raise InputError(f"a price of {self.price} and a total of {self.total} visual tokens; give one of the two")
        price = self.price
        if price is not None and (isinstance(price, bool) or not isinstance(price, Real)):
            raise InputError(f"a price of {price!r} a token; give a share above 0, such as 0.001")
        if price is not None and not (price > 0 and math.isfinite(price)):
            raise InputError(f"a price of {price:g} a token; give a share above 0, such as 0.001")
        if self.total is not None and (whole_number(self.total) or 0) < 1:
            raise InputError(f"a total of {self.total!r} visual tokens; give a whole number, 1 or more")
        if any(whole_number(end) is None for end in (self.fewest, self.most)):
            raise InputError(f"{self.fewest!r} to {self.most!r} tokens an image; give whole numbers")
        if not 1 <= self.fewest <= self.most:
            raise InputError(f"{self.fewest} to {self.most} tokens an image; give 1 or more, the fewer first")

    def __str__(self) -> str:
        return f"price {self.price:g}" if self.total is None else f"total {self.total}"

    @property
    def fewest(self) -> int:
        """How many tokens every image gets at least."""
        return (64 if self.total is None else 1) if self.least is None else self.least

    def counts(self, keys: Sequence[Keys]) -> list[int]:
        """How many tokens each image gets, out of what its tokens gain; takes the errors of `shared`."""
        if self.total is not None:
            return shared(keys, self.total, least=self.fewest, most=self.most)
        assert self.price is not None
        return [int(affordable(own[None], self.price, least=self.fewest, most=self.most)) for own in keys]


def shared(keys: Sequence[Keys], total: int, *, least: int, most: int) -> list[int]:
    """A total shared among images: `least` each, then one token after the other to whom it gains most, up to `most`.

    All of the total is spent where the images have as many tokens. Raises InputError where it is too little for all.
    """
    floors = [min(least, len(own) + 1) for own in keys]
    rest = total - sum(floors)
    if rest < 0:
        raise InputError(
            f"a total of {total} visual tokens for {len(keys)} images of {least} or more; give {sum(floors)} or more, "
            "or fewer images"
        )
    places = [range(floor - 1, min(most - 1, len(own))) for floor, own in zip(floors, keys, strict=True)]
    offers = [(-float(keys[image][place]), place, image) for image, some in enumerate(places) for place in some]
    counts = list(floors)
    for _, _, image in sorted(offers)[:rest]:
        counts[image] += 1
    return counts


def gained(keys: Float[Tensor, "I N1"], features: Float[Tensor, "I N D"], weight: Float[Tensor, "I N"]) -> Tensor:
    """The keys of an allocation as shares of each image's mean squared feature, by weight."""
    whole = (features.float().square().sum(-1) * weight.float()).sum(-1).double()
    return keys.detach() / whole.detach().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
