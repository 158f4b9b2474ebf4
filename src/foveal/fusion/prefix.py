"""Visual tokens stand in the text where their image is: before, between or after the words (LLaVA, 2304.08485)."""

from dataclasses import dataclass

import torch
from torch import nn

from foveal.core.types import Stream, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """The order of image and text is the batch's (`image_slot`): nothing to set."""


class Prefix(nn.Module):
    """One gather puts `features[S D]` into the stream's slots; the layers stay as they are."""

    causal = True

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Replace the embedding of every slot by its visual token."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        chosen = visual.features[stream.slots.clamp(min=0)].to(stream.hidden.dtype)
        return stream.with_hidden(torch.where(stream.slots[..., None] >= 0, chosen, stream.hidden))

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream
