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

    What is heard of each word adds up, so that words which say nothing of a place change nothing, and is understood
    together: the left of the bottom is not that of the middle.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.hear = nn.Linear(width, _HEARD)
        self.understand = nn.Linear(_HEARD, _HEARD)
        self.say = nn.Linear(_HEARD, _WAVES**2 - 1)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, words: Float[Tensor, "I L D"], valid: Bool[Tensor, "I L"], grid: Grid) -> Float[Tensor, "I N"]:
        """What the words say of each cell of a grid, in logits; nothing where there are none."""
        heard = F.gelu(self.hear(F.layer_norm(words, words.shape[-1:]).to(self.hear.weight.dtype)))
        heard = heard.masked_fill(~valid[..., None], 0.0).sum(1)
        said = self.say(F.gelu(self.understand(heard))).float() * valid.any(1)[:, None]
        return said @ waves(grid).to(said.device)


def waves(grid: Grid) -> Float[Tensor, "K N"]:
    """The coarsest waves over a grid but the flat one: products of cosines along its sides."""
    down, across = (
        torch.cos(math.pi * torch.arange(_WAVES)[:, None] * (torch.arange(side) + 0.5) / side) for side in grid
    )
    return (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)[1:]
