"""What a question asks for, as it is learned: which of its words tell, how what they name looks, and where it is.

Without it, a word couples to what looks like the word itself, all words tell alike, and no word says a place.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.types import Grid
from foveal.layers.precision import own_dtype

_WAVES = 4  # along each side: the flat one, and up to one and a half of a wave
_HEARD = 32  # what is listened for in each word


class Hearing(nn.Module):
    """Of words of `width`; one that has learned nothing hears as if there were none.

    What is heard of a place in each word adds up, so that words which say nothing of one change nothing, and is
    understood together: the left of the bottom is not that of the middle.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.show, self.tell = nn.Linear(width, width, bias=False), nn.Linear(width, 1)
        self.hear, self.understand = nn.Linear(width, _HEARD), nn.Linear(_HEARD, _HEARD)
        self.say = nn.Linear(_HEARD, _WAVES**2 - 1)
        nn.init.zeros_(self.show.weight)
        with torch.no_grad():
            self.show.weight.diagonal().fill_(1.0)  # nn.init.eye_ waits for the compiler where weights take no memory
        for none in (self.tell.weight, self.tell.bias, self.say.weight, self.say.bias):
            nn.init.zeros_(none)

    def shown(self, features: Float[Tensor, "I N D"]) -> Float[Tensor, "I N D"]:
        """Patches as words that name them would be."""
        return self.show(features.to(self.show.weight.dtype))

    def gain(self, words: Float[Tensor, "I L D"]) -> Float[Tensor, "I L"]:
        """How much each word tells: above 0, and 1 where nothing is learned."""
        return self.tell(self._read(words))[..., 0].float().exp()

    def place(self, words: Float[Tensor, "I L D"], valid: Bool[Tensor, "I L"], grid: Grid) -> Float[Tensor, "I N"]:
        """What the words say of each cell of a grid, in logits; nothing where there are none."""
        heard = F.gelu(self.hear(self._read(words))).masked_fill(~valid[..., None], 0.0).sum(1)
        said = self.say(F.gelu(self.understand(heard))).float() * valid.any(1)[:, None]
        with own_dtype(said):
            return said @ waves(grid).to(said.device)

    def _read(self, words: Float[Tensor, "I L D"]) -> Float[Tensor, "I L D"]:
        return F.layer_norm(words, words.shape[-1:]).to(self.hear.weight.dtype)


def waves(grid: Grid) -> Float[Tensor, "K N"]:
    """The coarsest waves over a grid but the flat one: products of cosines along its sides."""
    down, across = (
        torch.cos(math.pi * torch.arange(_WAVES)[:, None] * (torch.arange(side) + 0.5) / side) for side in grid
    )
    return (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)[1:]
