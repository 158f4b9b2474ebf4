"""OPT (2205.01068): a decoder of learned positions, LayerNorms and plain feed-forwards with biases."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cache, Stream
from foveal.language.decoder import opened
from foveal.layers.alibi import sloped, slopes
from foveal.layers.attention import Attention, Mask, Read
from foveal.layers.cache import KVCache
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.mlp import FeedForward
from foveal.layers.speaking import Speaking

OFFSET = 2  # rows of the table of positions before that of the first word


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the model; the defaults are a small one to train from scratch.

    `norm_first` norms what a part reads, else what it has written (OPT-350M); `last_norm` stands before the head.
    Words of another `word_width` than the layers' are mapped to it, and back for the head.
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    context: int = 2048
    activation: str = "relu"
    eps: float = 1e-5
    bias: bool = True
    norm_first: bool = True
    last_norm: bool = True
    word_width: int | None = None
    deviation: float = 0.02


class Layer(Speaking):
    """Attend to what was written, then feed, each beside a residual: a stream to a stream.

    `parallel` layers feed on what attention reads, beside it (GPT-J). With a `steepest` slope, attention falls with the
    distance.
    """

    def __init__(
        self,
        *,
        index: int,
        width: int,
        heads: int,
        inner: int,
        activation: str,
        eps: float,
        bias: bool,
        norm_first: bool = True,
        norm_bias: bool = True,
        parallel: bool = False,
        steepest: float = 0.0,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.index, self.norm_first, self.parallel, self.steepest = index, norm_first, parallel, steepest
        self.attention_norm, self.feed_norm = (nn.LayerNorm(width, eps=eps, bias=norm_bias) for _ in range(2))
        self.attention = Attention(width=width, heads=heads, bias=bias, out_bias=bias, qk_norm=qk_norm, causal=True)
        self.feed = FeedForward(width=width, inner=inner, activation=activation, bias=bias)

    def everywhere(self, stream: Stream) -> Stream:
        """One layer."""
        stream = self._fallen(stream)
        attend = partial(
            self.attention, mask=self._mask(stream), rotary=stream.rotary, cache=stream.cache, layer=self.index,
            fan=stream.fan,
        )  # fmt: skip
        return stream.with_hidden(self._fed(stream.hidden, attend, stream.hidden))

    def only(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
        """What the layer says at these places of each row alone, `[B Q D]`; its cache keeps all."""
        stream = self._fallen(stream)
        attend = partial(
            self.attention, mask=self._mask(stream), rotary=stream.rotary, cache=stream.cache, layer=self.index, at=at
        )
        kept = stream.only(at)
        return kept.with_hidden(self._fed(stream.hidden, attend, kept.hidden))

    def shares(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Float[Tensor, "B Q L"]:
        """How much the tokens at these places would take of each of the stream's here, the mean over the heads."""
        read, mask, rotary = self.reads(stream)
        return self.attention.weights(read, mask=mask, rotary=rotary, at=at).mean(1)

    def reads(self, stream: Stream) -> Read:
        """What attention reads of the stream, who sees whom or what it adds to scores, and by what heads turn."""
        stream = self._fallen(stream)
        read = self.attention_norm(stream.hidden) if self.norm_first else stream.hidden
        return read, self._mask(stream), stream.rotary

    def _fallen(self, stream: Stream) -> Stream:
        """The stream with what takes distances off the scores, made once for all layers that see the same."""
        mask, places, made = stream.mask, stream.positions, stream.falling
        if not self.steepest or mask is None or (made is not None and made[0] is mask and made[1] is places):
            return stream
        falls = slopes(self.attention.heads, self.steepest, device=stream.hidden.device)
        return replace(stream, falling=(mask, places, sloped(mask, places, falls)))

    def _mask(self, stream: Stream) -> Mask | None:
        return stream.mask if stream.mask is None or stream.falling is None else stream.falling[2]

    def _fed(self, read: Tensor, attend: Callable[[Tensor], Tensor], beside: Tensor) -> Tensor:
        if self.parallel:
            return beside + attend(self.attention_norm(read)) + self.feed(self.feed_norm(beside))
        if self.norm_first:
            hidden = beside + attend(self.attention_norm(read))
            return hidden + self.feed(self.feed_norm(hidden))
        hidden = self.attention_norm(beside + attend(read))
        return self.feed_norm(hidden + self.feed(hidden))


class Opt(nn.Module):
    """Tokens to a stream, layers over it, and what stands before the head; the head is apart.

    Raises InputError where heads do not divide the width, and for a text longer than the context.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        inner: int | None = None,
        context: int = 2048,
        activation: str = "relu",
        eps: float = 1e-5,
        bias: bool = True,
        norm_first: bool = True,
        last_norm: bool = True,
        word_width: int | None = None,
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.heads, self.word_width = heads, word_width or width
        mapped = self.word_width != width
        self.embedding = nn.Embedding(vocabulary, self.word_width)
        self.positions = nn.Embedding(context + OFFSET, width)
        self.map_in = Linear(self.word_width, width, bias=False) if mapped else nn.Identity()
        self.map_out = Linear(width, self.word_width, bias=False) if mapped else nn.Identity()
        layer = partial(
            Layer, width=width, heads=heads, inner=inner or 4 * width, activation=activation, eps=eps, bias=bias,
            norm_first=norm_first,
        )  # fmt: skip
        self.layers = nn.ModuleList(layer(index=index) for index in range(depth))
        self.last_norm = nn.LayerNorm(width, eps=eps) if last_norm else nn.Identity()
        self.apply(partial(small_normal, deviation=deviation))

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Embed the tokens `[B L]`, not yet at their places: those are for words and sight alike."""
        stream = opened(self.map_in(self.embedding(batch.input_ids)), batch, cache)
        if cache is not None or stream.positions.shape[1] > self.context:
            self._check(stream.positions)
        return stream

    def enter(self, stream: Stream) -> Stream:
        """Add what is learned of each place, to visual tokens too."""
        return stream.with_hidden(stream.hidden + self.positions(stream.positions + OFFSET))

    def norm(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch W"]:
        """The last norm and the way back to the width of words, where there are such."""
        return self.map_out(self.last_norm(hidden))

    def cache(self, batch: int, length: int) -> KVCache:
        """Room for the keys and values of `batch` rows of `length` tokens, where the weights are."""
        return KVCache.like(self.positions.weight, self.depth, (batch, self.heads, length, self.width // self.heads))

    def _check(self, positions: Int[Tensor, "B L"]) -> None:
        if not torch.compiler.is_compiling() and (longest := int(positions.max()) + 1) > self.context:
            raise InputError(f"{longest} tokens for a model of {self.context} places; shorten the text")
