"""Vectors of images and of texts whose products say how well they fit (CLIP, 2103.00020; BEiT-3, 2208.10442)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """Vectors of `size` numbers (None: as many as the model's width), and the `temperature` that learning starts at."""

    size: int | None = None
    temperature: float = 0.07
    bias: bool = False


class Contrastive(nn.Module):
    """`hidden[... D]` to two vectors `[... 2 size]`: the state read as that of an image, and as that of a text.

    Both have the length that makes the product of an image's first and a text's second vector a logit: the cosine
    over the temperature. So whoever compares vectors needs no parameter of this head.
    """

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        size: int | None = None,
        temperature: float = 0.07,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.sight, self.words = (Linear(width, size or width, bias=bias) for _ in range(2))
        self.apply(small_normal)
        self.scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch 2 K"]:
        """Map, and bring to the length of the root of the inverse temperature."""
        both = torch.stack([self.sight(hidden), self.words(hidden)], dim=-2)
        return F.normalize(both, dim=-1) * (self.scale / 2).exp()
