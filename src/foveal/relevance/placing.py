"""Where a question says to look: 'at the left' is a place, whatever lies there."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.types import Grid

_WAVES = 4  # along each side: the flat one, and up to one and a half of a wave
_HEARD = 32  # what is listened for in each word


class Placing(nn.Module):
    """Words of `width` to a map of the picture, out of the coarsest waves; one that has learned nothing is flat.

    What is listened for is heard where any word says it, so that a longer question says no less.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.hear = nn.Linear(width, _HEARD)
        self.say = nn.Linear(_HEARD, _WAVES**2 - 1)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, words: Float[Tensor, "I L D"], valid: Bool[Tensor, "I L"], grid: Grid) -> Float[Tensor, "I N"]:
        """What the words say of each cell of a grid, in logits."""
        heard = F.gelu(self.hear(F.layer_norm(words, words.shape[-1:]).to(self.hear.weight.dtype)))
        most = heard.masked_fill(~valid[..., None], -torch.inf).amax(1)
        most = torch.where(valid.any(1)[:, None], most, 0.0)
        return self.say(most).float() @ waves(grid).to(most.device)


def waves(grid: Grid) -> Float[Tensor, "K N"]:
    """The coarsest waves over a grid but the flat one: products of cosines along its sides."""
    down, across = (
        torch.cos(math.pi * torch.arange(_WAVES)[:, None] * (torch.arange(side) + 0.5) / side) for side in grid
    )
    return (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)[1:]
