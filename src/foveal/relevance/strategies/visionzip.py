"""VisionZip (2412.04467): the patches that the encoder attends to most, and a few that the others are gathered in.

Behind the connector; needs the encoder's attention, and its keys to tell what is alike.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.spending import Among, Choosing, Sums
from foveal.relevance.tokens import attention_of, keys_of, likeness


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` tokens an image, the share `contextual` of them gathered, rounded down."""

    budget: int = 64
    contextual: float = 10 / 64


class Visionzip(Choosing):
    """Dominant tokens in raster order, then contextual ones: an even choice of the others, each and the mean of those
    that are most like it, added up."""

    name = "visionzip"
    needs = ("attention",)

    def __init__(self, *, budget: int = 64, contextual: float = 10 / 64) -> None:
        if not 0 <= contextual <= 1:
            raise InputError(f"a share of {contextual:g} contextual tokens for strategy 'visionzip'; give 0 to 1")
        super().__init__(budget=budget)
        self.contextual = contextual

    def choose(self, among: Among) -> Sums:
        """Attend, then gather."""
        attention = attention_of(among.visual, among.images, name=self.name)
        keys = keys_of(among.visual, among.images, name=self.name).mean(2)
        return zipped(attention, keys, self.budget, int(self.budget * self.contextual))


@torch.no_grad()
def zipped(attention: Float[Tensor, "I N"], keys: Float[Tensor, "I N d"], budget: int, contextual: int) -> Sums:
    """What is in each token: one patch alone, or the one it was chosen by and an equal part of each gathered one."""
    images, count = attention.shape
    dominant = budget - contextual
    best = attention.sort(dim=1, descending=True, stable=True).indices
    first, others = best[:, :dominant].sort(dim=1).values, best[:, dominant:].sort(dim=1).values
    parts = F.one_hot(first, count).to(keys.dtype)
    token = torch.full((images, count), -1, device=keys.device)
    token = token.scatter(1, first, torch.arange(dominant, device=keys.device).expand_as(first))
    if not contextual:
        return Sums(parts=parts, token=token)
    step = max(1, others.shape[1] // contextual)
    spread = torch.arange(others.shape[1], device=keys.device)
    chosen = (spread % step == 0) & (spread < step * contextual)
    middles, gathered = others[:, chosen], others[:, ~chosen]
    units = F.normalize(keys, dim=-1)
    near, far = (units.take_along_dim(some[..., None], 1) for some in (middles, gathered))
    home = likeness(far, near).argmax(-1) if gathered.shape[1] else gathered
    own = F.one_hot(middles, count).to(keys.dtype)
    joined = own.new_zeros(images, contextual, count)
    joined[torch.arange(images, device=keys.device)[:, None], home, gathered] = 1.0
    added = own + joined / joined.sum(-1, keepdim=True).clamp(min=1)
    number = torch.arange(dominant, budget, device=keys.device).expand_as(middles)
    token = token.scatter(1, middles, number).scatter(1, gathered, dominant + home)
    return Sums(parts=torch.cat([parts, added], dim=1), token=token)
