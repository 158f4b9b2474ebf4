"""Visual tokens stand in the text where their image is: before, between or after the words (LLaVA, 2304.08485)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Stream, VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.numbers import Numbers
from foveal.layers.places import Places
from foveal.layers.positions import Positions
from foveal.layers.relaid import misplaced


@dataclass(frozen=True, kw_only=True)
class Config:
    """`places` octaves tell each token where its box lies in the image (0: order alone tells, as in LLaVA).

    The first `images` of a row are told apart (0: order alone tells). `positions` learned ones number the tokens of
    each image, and `mask` is a learned token in the place of those that are hidden (BEiT-3, 2208.10442). Words are the
    first of `modalities` learned kinds, visual tokens the second or what their types say (ViLT, 2102.03334). For the
    words `marks` stand the marks of the connector in turn, in batches with images (Ovis, 2405.20797).
    """

    places: int = 0
    positions: int = 0
    mask: bool = False
    modalities: int = 0
    images: int = 0
    marks: tuple[int, ...] = ()


class Prefix(nn.Module):
    """One gather puts `features[S D]` into the stream's slots; the layers stay as they are.

    Raises InputError for an image of more tokens than `positions`, for hidden tokens where there is no `mask`, for
    another number of `marks` than the connector brings, and for texts laid out for more tokens than there are.
    """

    causal = True
    early = True  # sight enters before the first layer and nowhere else

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        places: int = 0,
        positions: int = 0,
        mask: bool = False,
        modalities: int = 0,
        images: int = 0,
        marks: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.marks = marks
        self.place = Places(width=width, octaves=places) if places else None
        self.positions = Positions(positions, width) if positions else None
        self.mask = nn.Parameter(torch.zeros(1, 1, width)) if mask else None
        self.modalities = nn.Embedding(modalities, width) if modalities else None
        if self.modalities is not None:
            small_normal(self.modalities)
        self.number = Numbers(images=images, width=width) if images else None

    def at_words(self, batch: Batch, visual: VisualTokens | None) -> Batch:
        """The batch with the slots of marks where their words stand."""
        if not self.marks or visual is None:
            return batch
        brought = 0 if visual.marks is None else len(visual.marks)
        if brought != len(self.marks):
            raise InputError(
                f"{len(self.marks)} words in fusion.marks and {brought} marks of the connector; name a word for each "
                "of connector.indicators of a visual_embedding_table"
            )
        slots = batch.image_slot
        for number, word in enumerate(self.marks):
            slots = torch.where(batch.input_ids == word, -2 - number, slots)
        return replace(batch, image_slot=slots)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Replace the embedding of every slot by its visual token."""
        return self._kinds(self._filled(stream, visual))

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream

    def _filled(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        if visual is None or visual.features.shape[0] == 0:
            return stream
        features = self._hidden(visual)
        if self.place is not None:
            features = features + self.place(visual)
        if self.positions is not None:
            features = features + self._numbered(visual, self.positions)
        try:
            chosen = features[stream.slots.clamp(min=0)]
        except IndexError:
            raise InputError(misplaced(int(stream.slots.max()) + 1, len(features))) from None
        if self.number is not None:
            chosen = chosen + self.number(stream, visual)
        chosen = chosen.to(stream.hidden.dtype)
        hidden = torch.where(stream.slots[..., None] >= 0, chosen, stream.hidden)
        if self.marks and visual.marks is not None:
            marks = visual.marks.to(hidden.dtype)[(-2 - stream.slots).clamp(min=0)]
            hidden = torch.where(stream.slots[..., None] < -1, marks, hidden)
        return stream.with_hidden(hidden)

    def _kinds(self, stream: Stream) -> Stream:
        if self.modalities is None:
            return stream
        seen = stream.slots >= 0
        kinds = seen.long() if stream.types is None else torch.where(seen, stream.types, 0)
        return stream.with_hidden(stream.hidden + self.modalities(kinds))

    def _hidden(self, visual: VisualTokens) -> Float[Tensor, "S D"]:
        if visual.masked is None:
            return visual.features
        if self.mask is None:
            raise InputError("visual tokens are hidden, but the fusion has no token for them; set fusion.mask to true")
        return torch.where(visual.masked[:, None], self.mask[0], visual.features)

    def _numbered(self, visual: VisualTokens, table: Positions) -> Float[Tensor, "S D"]:
        if (most := max(visual.layout.counts)) > table.count:
            raise InputError(
                f"an image of {most} visual tokens for {table.count} positions; raise fusion.positions, or plan fewer"
            )
        begins = torch.tensor(visual.layout.offsets[:-1], device=visual.image.device)
        return table(torch.arange(len(visual.image), device=visual.image.device) - begins[visual.image])
