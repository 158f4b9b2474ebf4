"""Where a visual token lies, told by its box and not by its order."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.types import VisualTokens


class Places(nn.Linear):
    """A learned map `[S D]` of the waves of each token's box."""

    def __init__(self, *, width: int, octaves: int) -> None:
        super().__init__(8 * octaves, width)
        self.octaves = octaves

    def forward(self, visual: VisualTokens) -> Float[Tensor, "S D"]:
        """What to add to each token."""
        return super().forward(waves(visual.boxes, self.octaves).to(visual.features.dtype))


def waves(boxes: Float[Tensor, "S 4"], octaves: int) -> Float[Tensor, "S K"]:
    """Sines and cosines, an octave apart from half a turn on, of each box's centre and size (K is 8 an octave)."""
    corner, end = boxes[:, :2], boxes[:, 2:]
    measures = torch.cat([(corner + end) / 2, end - corner], dim=-1)
    angles = measures[..., None] * (torch.pi * 2.0 ** torch.arange(octaves, device=boxes.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
