"""Image tokens are words of one vocabulary: text and pictures are read and written alike (Chameleon, 2405.09818)."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Stream, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """`codes` of the image tokenizer are words of the language model from `first` on, or the named `words` in turn."""

    codes: int = 8192
    first: int = 0
    words: tuple[int, ...] = ()


class Vocabulary(nn.Module):
    """Puts the word of each visual token's code into the text, before the language model opens it.

    Raises InputError for as many words as there are not codes, for a word named twice, and for tokens without codes.
    """

    causal = True
    early = True  # sight enters before the first layer and nowhere else

    def __init__(
        self, *, width: int, depth: int, codes: int = 8192, first: int = 0, words: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if codes < 1 or (words and len(words) != codes) or len(set(words)) != len(words):
            raise InputError(f"{len(set(words))} different words for {codes} codes; name one for each, or the first")
        self.codes = codes
        named = torch.tensor(words or range(first, first + codes), device="cpu")
        self.register_buffer("words", named, persistent=False)
        self.words: torch.Tensor

    def at_words(self, batch: Batch, visual: VisualTokens | None) -> Batch:
        """The batch with the images' words in their slots, and as labels where an image is to be written."""
        if visual is None or visual.features.shape[0] == 0:
            return batch
        if visual.codes is None:
            raise InputError("visual tokens without codes for a fusion of one vocabulary; take vision 'vq'")
        here = batch.image_slot >= 0
        shown = self.words[visual.codes][batch.image_slot.clamp(min=0)]
        labels = batch.labels
        if labels is not None:
            labels = torch.where(here & (labels != IGNORE), shown, labels)
        return replace(batch, input_ids=torch.where(here, shown, batch.input_ids), labels=labels)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """The words are embedded already."""
        return stream

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream
