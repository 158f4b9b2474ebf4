"""The decoder of an encoder-decoder: what is written reads itself and, in every layer, a memory of what is seen.

By its settings that of Pix2Seq (2109.10852), with norms first, or of the first transformer (1706.03762), norms last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cache, Stream
from foveal.layers.attention import Attention, Read
from foveal.layers.cache import KVCache
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.initial import in_order, small_normal
from foveal.layers.masks import attention_mask
from foveal.layers.mlp import FeedForward
from foveal.layers.sines import line


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the decoder; the defaults are a small one to train from scratch.

    `norm_first` norms what a part reads, and the last state once more; otherwise what a part writes is normed.
    Tokens from the first of `ordered` up to before the last stand for numbers in order, and begin as such.
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    context: int = 512
    activation: str = "gelu"
    eps: float = 1e-6
    positions: Literal["learned", "sin_cos"] = "learned"
    norm_first: bool = True
    ordered: tuple[int, int] | None = None


class Layer(nn.Module):
    """Attend to what was written, then to the memory, then feed, each beside a residual: a stream to a stream."""

    def __init__(
        self, *, index: int, width: int, heads: int, inner: int, activation: str, eps: float, norm_first: bool
    ) -> None:
        super().__init__()
        self.index, self.norm_first = index, norm_first
        self.attention_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(width, eps=eps) for _ in range(3))
        self.attention = Attention(width=width, heads=heads, causal=True)
        self.cross = CrossAttention(width=width, heads=heads)
        self.feed = FeedForward(width=width, inner=inner, activation=activation)

    def forward(self, stream: Stream) -> Stream:
        """One layer; raises InputError where there is nothing to look at."""
        *memory, seen = self._memory(stream)
        attend = partial(self.attention, mask=stream.mask, cache=stream.cache, layer=self.index)
        look = partial(self.cross, memory=tuple(memory), mask=seen)
        hidden = self._beside(stream.hidden, attend, self.attention_norm)
        hidden = self._beside(hidden, look, self.cross_norm)
        return stream.with_hidden(self._beside(hidden, self.feed, self.feed_norm))

    def reads(self, stream: Stream) -> Read:
        """What attention reads of the stream, and who sees whom; no heads turn."""
        return self.attention_norm(stream.hidden) if self.norm_first else stream.hidden, stream.mask, None

    def _beside(self, hidden: Tensor, part: Callable[[Tensor], Tensor], norm: nn.LayerNorm) -> Tensor:
        return hidden + part(norm(hidden)) if self.norm_first else norm(hidden + part(hidden))

    def _memory(self, stream: Stream) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and mask of what the stream brings, or of what the cache kept of it."""
        kept = stream.cache.memory if stream.cache is not None else {}
        if stream.memory is not None:
            kept[self.index] = (*self.cross.read(stream.memory), stream.memory_mask)
        if self.index not in kept:
            raise InputError("a sequence decoder got no images to look at; give the batch one image a row")
        return kept[self.index]


class SequenceDecoder(nn.Module):
    """Tokens to a stream, layers over it, and the last norm; the head is apart.

    Raises InputError where heads do not divide the width, and for a sequence longer than the context.
    """

    reads_memory = True
    tells_valid = False  # in the stream
    codes: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        inner: int | None = None,
        context: int = 512,
        activation: str = "gelu",
        eps: float = 1e-6,
        positions: Literal["learned", "sin_cos"] = "learned",
        norm_first: bool = True,
        ordered: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        first, last = ordered or (0, 1)
        if not 0 <= first < last <= vocabulary:
            raise InputError(f"ordered tokens from {first} to {last} of {vocabulary} words; give a range within these")
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        codes = line(context, width, device="cpu") if positions == "sin_cos" else None
        self.register_buffer("codes", codes, persistent=False)
        layer = partial(
            Layer, width=width, heads=heads, inner=inner or 4 * width, activation=activation, eps=eps,
            norm_first=norm_first,
        )  # fmt: skip
        self.layers = nn.ModuleList(layer(index=index) for index in range(depth))
        self.last_norm = nn.LayerNorm(width, eps=eps) if norm_first else nn.Identity()
        self.apply(small_normal)
        if ordered:
            in_order(self.embedding.weight[first:last])

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Embed the tokens `[B L]` at their places; places continue, and the mask covers, what the cache holds."""
        valid = batch.valid if cache is None else cache.extend(batch.valid)
        length = batch.input_ids.shape[1]
        if valid.shape[1] > self.context:
            raise InputError(
                f"{valid.shape[1]} tokens for a decoder of {self.context} places; ask for fewer objects or words"
            )
        places = batch.positions
        if places is None:
            places = (valid.cumsum(1) - 1).clamp(min=0)[:, -length:]
        mask = None
        if not (batch.full and batch.order is None and length in (1, valid.shape[1])):
            mask = attention_mask(valid, queries=length, order=batch.order, segment=batch.segment, branch=batch.branch)
            ended = ~valid & (valid.cumsum(1) > 0)  # has its start to look at, and need not see itself
            mask = mask & ~ended[:, None, None]
        placed = self.codes[places] if self.positions is None else self.positions(places)
        return Stream(
            hidden=self.embedding(batch.input_ids) + placed,
            positions=places,
            slots=batch.image_slot,
            mask=mask,
            owner=batch.owner,
            cache=cache,
        )

    def enter(self, stream: Stream) -> Stream:
        """Nothing stands before layer 0."""
        return stream

    def norm(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The last norm, where norms come first."""
        return self.last_norm(hidden)

    def cache(self, batch: int, length: int) -> KVCache:
        """Room for the keys and values of `batch` rows of `length` tokens, where the weights are."""
        return KVCache.like(self.embedding.weight, self.depth, (batch, self.heads, length, self.width // self.heads))
