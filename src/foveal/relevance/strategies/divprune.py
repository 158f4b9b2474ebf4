"""DivPrune (2503.02175): patches that are as different from each other as can be, whatever is asked."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import likeness, picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image."""

    budget: int = 64


class Divprune(Choosing):
    """Greedy max-min diversity over cosine distances; needs nothing but the tokens."""

    name = "divprune"

    def choose(self, among: Among) -> Shares:
        """Take the farthest again and again."""
        return picked(farthest(among.features, self.budget), among.features.shape[1])


@torch.no_grad()
def farthest(features: Float[Tensor, "I N D"], count: int) -> Tensor:
    """The places `[I count]` of patches in the order of their choice: first the one whose nearest other is farthest,
    then each time the one whose nearest chosen one is."""
    units = F.normalize(features.float(), dim=-1)
    far = 1 - likeness(units, units)
    own = torch.eye(far.shape[1], dtype=torch.bool, device=far.device)
    nearest = far.masked_fill(own, torch.inf).amin(-1)
    places = [nearest.argmax(1)]
    nearest = torch.full_like(nearest, torch.inf)
    for _ in range(count - 1):
        last = places[-1][:, None]
        nearest = torch.minimum(nearest, far.gather(1, last[..., None].expand(-1, -1, far.shape[2]))[:, 0])
        nearest = nearest.scatter(1, last, -torch.inf)
        places.append(nearest.argmax(1))
    return torch.stack(places, dim=1)
