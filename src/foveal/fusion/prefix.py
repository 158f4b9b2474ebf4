"""Visual tokens stand in the text where their image is: before, between or after the words (LLaVA, 2304.08485)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.types import Stream, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """`places` octaves tell each token where its box lies in the image (0: order alone tells, as in LLaVA)."""

    places: int = 0


class Prefix(nn.Module):
    """One gather puts `features[S D]` into the stream's slots; the layers stay as they are."""

    causal = True

    def __init__(self, *, width: int, depth: int, places: int = 0) -> None:
        super().__init__()
        self.places = places
        self.place = nn.Linear(8 * places, width) if places else None

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Replace the embedding of every slot by its visual token."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        features = visual.features
        if self.place is not None:
            features = features + self.place(waves(visual.boxes, self.places).to(features.dtype))
        chosen = features[stream.slots.clamp(min=0)].to(stream.hidden.dtype)
        return stream.with_hidden(torch.where(stream.slots[..., None] >= 0, chosen, stream.hidden))

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream


def waves(boxes: Float[Tensor, "S 4"], octaves: int) -> Float[Tensor, "S K"]:
    """Sines and cosines, an octave apart from half a turn on, of each box's centre and size (K is 8 an octave)."""
    corner, end = boxes[:, :2], boxes[:, 2:]
    measures = torch.cat([(corner + end) / 2, end - corner], dim=-1)
    angles = measures[..., None] * (torch.pi * 2.0 ** torch.arange(octaves, device=boxes.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
