"""Which image of its row a visual token belongs to: the first, the second."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.layers.looking import begun

DEVIATION = 0.2  # about that of features; with the 0.02 of other tables, order is learned late or not at all


class Numbers(nn.Embedding):
    """A learned vector `[B L D]` for the number of the image that stands at a place.

    Raises InputError for a row of more images than there are vectors.
    """

    def __init__(self, *, images: int, width: int) -> None:
        super().__init__(images, width)
        nn.init.normal_(self.weight, std=DEVIATION)

    def forward(self, stream: Stream, visual: VisualTokens) -> Float[Tensor, "B L D"]:  # type: ignore[override]
        """What to add to the visual tokens; what it says of words is meant for none."""
        numbers = numbered(stream, visual)
        if not torch.compiler.is_compiling() and (most := int(numbers.max()) + 1) > self.num_embeddings:
            raise InputError(
                f"a row of {most} images for a fusion that tells {self.num_embeddings} apart; "
                "raise fusion.images, or show fewer"
            )
        return super().forward(numbers)


def numbered(stream: Stream, visual: VisualTokens) -> Int[Tensor, "B L"]:
    """How many images of its own conversation begin before that of a place; 0 for words.

    Rows may share an image, which is the first of one and the second of another: so the rows say, not the images.
    """
    _, _, before = begun(stream, visual)
    return torch.where(stream.slots >= 0, before.sum(-1) - 1, 0).clamp(min=0)
