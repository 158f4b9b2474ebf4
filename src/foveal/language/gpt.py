"""Decoders of LayerNorms and plain feed-forwards that tell places inside attention: GPT-NeoX (2204.06745) and MPT."""

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cache, Stream
from foveal.language.decoder import opened
from foveal.language.opt import Layer
from foveal.layers.attention import per_head
from foveal.layers.cache import KVCache
from foveal.layers.initial import small_normal
from foveal.layers.rotary import Rope, inverse_frequencies, tables


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the model; the defaults are a small one to train from scratch.

    Places are told by turning heads (`rope`), or by a fall of attention with the distance, the least of whose slopes is
    2 to the power -`steepest` (ALiBi, 2108.12409): give one of them. `parallel` layers feed beside attention, on what
    it reads. `bias` is that of all maps, `norm_bias` that of norms; `qk_norm` norms all heads of queries together, and
    all of keys.
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    context: int = 2048
    activation: str = "gelu"
    eps: float = 1e-5
    bias: bool = True
    norm_bias: bool = True
    parallel: bool = False
    rope: Rope | None = None
    steepest: float = 0.0
    qk_norm: bool = False
    deviation: float = 0.02


class Gpt(nn.Module):
    """Tokens to a stream, layers over it, and the last norm; the head is apart.

    Raises InputError where heads do not divide the width, and for places told in no way or in two.
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
        activation: str = "gelu",
        eps: float = 1e-5,
        bias: bool = True,
        norm_bias: bool = True,
        parallel: bool = False,
        rope: Rope | None = None,
        steepest: float = 0.0,
        qk_norm: bool = False,
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        if (rope is None) == (not steepest):
            raise InputError(f"places are told by rope {rope} and steepest {steepest}; give one of the two")
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.heads, self.head_width, self.rope = heads, per_head(width, heads), rope
        self.embedding = nn.Embedding(vocabulary, width)

        def together(count: int) -> nn.Module:
            return nn.LayerNorm([count, self.head_width], eps=eps, bias=norm_bias)

        layer = partial(
            Layer, width=width, heads=heads, inner=inner or 4 * width, activation=activation, eps=eps, bias=bias,
            norm_bias=norm_bias, parallel=parallel, steepest=steepest, qk_norm=together if qk_norm else None,
        )  # fmt: skip
        self.layers = nn.ModuleList(layer(index=index) for index in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps, bias=norm_bias)
        self.apply(partial(small_normal, deviation=deviation))

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Embed the tokens `[B L]`; positions continue, and the mask covers, what the cache holds."""
        hidden: Float[Tensor, "B L D"] = self.embedding(batch.input_ids)
        if self.rope is None:  # the fall with the distance is part of a mask
            return opened(hidden, replace(batch, full=False, fan=None), cache)
        stream = opened(hidden, batch, cache)
        frequencies = inverse_frequencies(self.head_width, self.rope, device=hidden.device)
        return replace(stream, rotary=tables(stream.positions, frequencies, dtype=hidden.dtype))

    def enter(self, stream: Stream) -> Stream:
        """Nothing stands before layer 0."""
        return stream

    def cache(self, batch: int, length: int) -> KVCache:
        """Room for the keys and values of `batch` rows of `length` tokens, where the weights are."""
        return KVCache.like(self.embedding.weight, self.depth, (batch, self.heads, length, self.head_width))
