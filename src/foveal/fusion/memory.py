"""What is seen is the memory that the language layers' own cross-attention reads (Pix2Seq, 2109.10852)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.places import Places


@dataclass(frozen=True, kw_only=True)
class Config:
    """`places` octaves tell each token where its box lies (0: the encoder tells); `positions` is the size of a table
    of learned ones, by a token's place among those of its image (0: none)."""

    places: int = 0
    positions: int = 0


class Memory(nn.Module):
    """Lays the visual tokens `features[S D]` out in the rows that own their images, as `[B M D]` with a mask."""

    causal = True
    fills_memory = True

    def __init__(self, *, width: int, depth: int, places: int = 0, positions: int = 0) -> None:
        super().__init__()
        self.place = Places(width=width, octaves=places) if places else None
        self.positions = nn.Embedding(positions, width) if positions else None
        self.apply(small_normal)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Hand the layers their memory; raises InputError for an image with more tokens than positions."""
        if visual is None:
            return stream
        features = visual.features
        if self.place is not None:
            features = features + self.place(visual)
        if self.positions is not None:
            features = features + self.positions(self._within(visual.layout, features.device))
        index, mask = rows_of(visual.layout, stream.owner, len(stream.hidden))
        memory = features.unflatten(0, (len(stream.hidden), -1)) if index is None else features[index]
        return replace(stream, memory=memory.to(stream.hidden.dtype), memory_mask=mask)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """The layers read the memory themselves."""
        return stream

    def _within(self, layout: Layout, device: torch.device) -> Int[Tensor, " S"]:
        assert self.positions is not None
        most, room = max(layout.counts, default=0), self.positions.num_embeddings
        if most > room:
            raise InputError(f"an image of {most} visual tokens for a memory of {room} positions; give smaller images")
        return torch.cat([torch.arange(count, device=device) for count in layout.counts])


def rows_of(
    layout: Layout, owner: Int[Tensor, " I"] | None, rows: int
) -> tuple[Int[Tensor, "B M"] | None, Bool[Tensor, "B 1 1 M"] | None]:
    """Which visual token stands at each place of each row's memory, and where one does (None: everywhere).

    No index is needed where every row owns one image of the same size, in order. A row without images sees nothing.
    Compiled, with as many images of one size as rows, each row must own one, in any order.
    """
    counts = layout.counts
    even = len(counts) == rows and len(set(counts)) == 1
    if even and (owner is None or rows == 1):
        return None, None
    if even and owner is not None and torch.compiler.is_compiling():
        return _in_order(owner, counts[0]), None
    if even and owner is not None and owner.tolist() == list(range(rows)):
        return None, None
    owned = [[] for _ in range(rows)]
    for image, row in enumerate([] if owner is None else owner.tolist()):
        owned[row] += range(layout.offsets[image], layout.offsets[image + 1])
    longest = max(len(tokens) for tokens in owned)
    device = owner.device if owner is not None else None
    index = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in owned], device=device, dtype=torch.long)
    lengths = torch.tensor([len(tokens) for tokens in owned], device=device)
    mask = torch.arange(longest, device=device) < lengths[:, None]
    return index, None if bool(mask.all()) else mask[:, None, None]


def _in_order(owner: Int[Tensor, " B"], count: int) -> Int[Tensor, "B M"]:
    """The tokens of each row's one image, with the owners left unread."""
    owners, image = owner.sort()
    each = owners == torch.arange(len(owner), device=owner.device)
    torch._assert_async(each.all(), "rows with several images and with none; compiled, give each row one")
    return image[:, None] * count + torch.arange(count, device=owner.device)
