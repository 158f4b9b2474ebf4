"""CDPruner (2506.10967): patches that differ from each other, the more so the more the question asks for them.

Behind the connector; hears the question, word by word, as the language model embeds it. Where words are of another
width than what is seen, no cosine says what they ask for, and patches differ as if nothing were asked.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Shares
from foveal.relevance.tokens import picked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image; a `sign` of -1 is for likeness that falls with relevance, as CLIP's does."""

    budget: int = 64
    sign: float = 1.0


class Cdpruner(Choosing):
    """The greedy mode of a determinantal point process, whose kernel is likeness times what both patches are asked."""

    name = "cdpruner"
    steered = True

    def __init__(self, *, budget: int = 64, sign: float = 1.0) -> None:
        if abs(sign) != 1:
            raise InputError(f"a sign of {sign:g} for strategy 'cdpruner'; give 1 or -1")
        super().__init__(budget=budget)
        self.sign = sign

    def choose(self, among: Among) -> Shares:
        """Ask, take the most determinant again and again."""
        row = among.query.owner[among.images]
        asked = relevance(among.features, among.query.features[row], among.query.valid[row], sign=self.sign)
        return picked(determinant(among.features, asked, self.budget), among.features.shape[1])


@torch.no_grad()
def relevance(
    features: Float[Tensor, "I N D"], query: Float[Tensor, "I L Q"], valid: Bool[Tensor, "I L"], *, sign: float = 1.0
) -> Float[Tensor, "I N"]:
    """The mean cosine of each patch with the words, from 0 to 1 over its image; 1 where no word of their width asks."""
    if query.shape[-1] != features.shape[-1]:
        return features.new_ones(features.shape[:2], dtype=torch.float64)
    patches, words = (F.normalize(part.double(), dim=-1) for part in (features, query))
    alike = (patches @ words.transpose(1, 2)).masked_fill(~valid[:, None], 0.0)
    mean = sign * alike.sum(-1) / valid.sum(-1).clamp(min=1)[:, None]
    least, most = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    scaled = (mean - least + 1e-6) / (most - least).clamp(min=1e-12)
    return torch.where(valid.any(1)[:, None] & (most > least), scaled, 1.0)


@torch.no_grad()
def determinant(
    features: Float[Tensor, "I N D"], asked: Float[Tensor, "I N"], budget: int, *, least: float = 1e-14
) -> Int[Tensor, "I B"]:
    """The places in the order in which each raises the determinant most; at less than `least` nothing is new."""
    units = F.normalize(features.double(), dim=-1) * asked.double()[..., None]
    kernel = units @ units.transpose(1, 2)
    new = kernel.diagonal(dim1=1, dim2=2).clone()
    known, places = kernel.new_zeros(len(kernel), 0, kernel.shape[2]), []
    for _ in range(budget):
        worth = torch.where((new >= 0) & (new < least), 0.0, new)
        place = worth.argmax(1, keepdim=True)
        at = place[..., None].expand(-1, known.shape[1], 1)
        row = kernel.gather(1, place[..., None].expand(-1, 1, kernel.shape[2]))[:, 0]
        told = (known.gather(2, at) * known).sum(1)
        own = worth.gather(1, place)
        step = torch.where(own > 0, (row - told) / own.clamp(min=least).sqrt(), 0.0)
        taken = torch.isneginf(new)
        new = torch.where(taken, new, (new - step.square()).clamp(min=0)).scatter(1, place, -torch.inf)
        known = torch.cat([known, step[:, None]], dim=1)
        places.append(place)
    return torch.cat(places, dim=1)
