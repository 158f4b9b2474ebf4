"""What two streams that look at each other share: the look itself, and where the tokens of each stand."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.types import Stream
from foveal.layers.cross_attention import CrossAttention


class Meeting(nn.Module):
    """One stream, `[B L D]`, looks at the other, `[B M E]`; of equal widths, one meeting may serve both ways."""

    def __init__(
        self, *, width: int, heads: int, eps: float, inner: int | None = None, memory_width: int | None = None
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(width=width, heads=heads, inner=inner, memory_width=memory_width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        other: Float[Tensor, "B M E"] | None,
        *,
        mask: Bool[Tensor, "B 1 1 M"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Look, add, norm; a row that has nothing to look at adds nothing."""
        if other is None or mask is None:
            return self.norm(hidden)
        some = mask.any(-1, keepdim=True)
        found = self.attention(hidden, self.attention.read(other), mask=mask | ~some)
        return self.norm(hidden + found * some[:, 0])


def places_of(wanted: Bool[Tensor, "B L"], *, limit: int | None = None) -> Int[Tensor, "B M"]:
    """The places of each row's wanted tokens in order, and others after them where a row has fewer than most.

    Compiled, they are as many as the `limit` that no row is above (None: its length).
    """
    most = (limit or wanted.shape[1]) if torch.compiler.is_compiling() else max(1, int(wanted.sum(1).max()))
    return wanted.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def itself(mask: Bool[Tensor, "B 1 1 M"]) -> Bool[Tensor, "B 1 M M"]:
    """Where a row shows no token at all, each sees itself, so that padding stays finite."""
    return mask | (torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device) & ~mask.any(-1, keepdim=True))


def words_alone(stream: Stream, words: Bool[Tensor, "B L"]) -> Stream:
    """The stream of its words, without visual tokens, which would only cost time; it keeps the whole."""
    assert stream.valid is not None
    places = places_of(words)
    valid = (stream.valid & (stream.slots < 0)).gather(1, places)

    def kept(values: Int[Tensor, "B L"]) -> Int[Tensor, "B W"]:
        return values.gather(1, places)

    return Stream(
        hidden=stream.hidden.take_along_dim(places[..., None], 1),
        positions=kept(stream.positions),
        slots=torch.full_like(places, -1),
        mask=itself(valid[:, None, None]),
        types=None if stream.types is None else kept(stream.types),
        valid=valid,
        places=places,
        whole=stream,
    )


def at_all_places(words: Stream) -> Stream:
    """The whole stream of some words again: these at their places, zeros elsewhere, and the memory that they have."""
    whole, places = words.whole, words.places
    assert whole is not None and places is not None
    empty = torch.zeros_like(whole.hidden, dtype=words.hidden.dtype)
    hidden = empty.scatter(1, places[..., None].expand_as(words.hidden), words.hidden)
    return replace(whole, hidden=hidden, memory=words.memory, memory_mask=words.memory_mask)
