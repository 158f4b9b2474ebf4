"""A linear classifier over features that stay as they are: multinomial logistic regression, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError

DECAY, ROUNDS = 1e-3, 100  # of the squared weights; of L-BFGS


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Which name features go by: the best of linear scores of features that were centred and scaled."""

    names: tuple[str, ...]
    centre: Float[Tensor, " E"]
    scale: Float[Tensor, " E"]
    weight: Float[Tensor, "K E"]
    bias: Float[Tensor, " K"]

    def __call__(self, features: Float[Tensor, "N E"]) -> list[str]:
        """The name of each."""
        scores = F.linear((features - self.centre) / self.scale, self.weight, self.bias)
        return [self.names[place] for place in scores.argmax(-1).tolist()]


def probe(features: Float[Tensor, "N E"], names: Sequence[str]) -> Probe:
    """The classifier that tells these features by their names.

    Raises InputError unless there is a name for each, of two kinds or more.
    """
    known = tuple(sorted(set(names)))
    if len(names) != len(features) or len(known) < 2:
        raise InputError(f"{len(features)} features with {len(names)} names of {len(known)} kinds; give each its name")
    right = torch.tensor([known.index(name) for name in names])
    centre, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    seen = (features - centre) / scale
    weight, bias = torch.zeros(len(known), features.shape[1]), torch.zeros(len(known))
    learns = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(learns, max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.cross_entropy(F.linear(seen, weight, bias), right) + DECAY * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]
    return Probe(names=known, centre=centre, scale=scale, weight=weight.detach(), bias=bias.detach())
