"""A decoder-only language model, by settings: Llama (2302.13971), Qwen3 (2505.09388), Chameleon (2405.09818)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cache, Stream
from foveal.layers.attention import Attention, Read, per_head
from foveal.layers.cache import KVCache
from foveal.layers.initial import liken, scale_residual, small_normal
from foveal.layers.masks import attention_mask
from foveal.layers.mlp import GatedFeedForward
from foveal.layers.norms import HeadNorm, RMSNorm
from foveal.layers.rotary import STANDARD, Rope, axes, inverse_frequencies, tables
from foveal.layers.speaking import Speaking

QkNorm = bool | Literal["own"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the decoder; the defaults are a small model to train from scratch.

    `kv_heads` and `head_width` default to `heads` and `width / heads`. `qk_norm` norms each query and key head, all
    by one gain (Qwen3) or each by its "own" (Chameleon). With `norm_after`, layers norm what attention and
    feed-forward write, not what they read (Chameleon's larger model).
    `deviation` is that of the fresh weights; `scaled` divides it by the root of twice the depth in the maps that
    write to the residual stream (GPT-2).
    With `alike`, queries and keys begin as one map of that deviation. A token sees the `window` tokens up to its own
    (None: all; Mistral, 2310.06825).
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    inner: int | None = None
    context: int = 2048
    activation: str = "silu"
    eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = False
    norm_after: bool = False
    rope: Rope = STANDARD
    deviation: float = 0.02
    scaled: bool = False
    alike: float = 0.0
    window: int | None = None


class Layer(Speaking):
    """Norm, attention, add; norm, gated feed-forward, add: a stream to a stream. The norms may come second."""

    def __init__(
        self,
        *,
        index: int,
        width: int,
        eps: float,
        attention: Attention,
        mlp: GatedFeedForward,
        norm_after: bool,
        still: bool = False,
    ) -> None:
        super().__init__()
        self.index, self.norm_after, self.still = index, norm_after, still
        self.attention_norm, self.attention = RMSNorm(width, eps=eps), attention
        self.mlp_norm, self.mlp = RMSNorm(width, eps=eps), mlp

    def everywhere(self, stream: Stream) -> Stream:
        """One layer."""
        rotary = None if self.still else stream.rotary
        attention = partial(
            self.attention, mask=stream.mask, rotary=rotary, cache=stream.cache, layer=self.index, fan=stream.fan
        )
        hidden = stream.hidden + self._normed(attention, self.attention_norm, stream.hidden)
        return stream.with_hidden(hidden + self._normed(self.mlp, self.mlp_norm, hidden))

    def only(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
        """What the layer says at these places of each row alone, `[B Q D]`; its cache keeps all."""
        rotary = None if self.still else stream.rotary
        attention = partial(
            self.attention, mask=stream.mask, rotary=rotary, cache=stream.cache, layer=self.index, at=at
        )
        kept = stream.only(at)
        hidden = kept.hidden + self._normed(attention, self.attention_norm, stream.hidden)
        return kept.with_hidden(hidden + self._normed(self.mlp, self.mlp_norm, hidden))

    def shares(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Float[Tensor, "B Q L"]:
        """How much the tokens at these places would take of each of the stream's here, the mean over the heads."""
        read, mask, rotary = self.reads(stream)
        return self.attention.weights(read, mask=mask, rotary=rotary, at=at).mean(1)

    def reads(self, stream: Stream) -> Read:
        """What attention reads of the stream, who sees whom, and by what heads turn."""
        read = stream.hidden if self.norm_after else self.attention_norm(stream.hidden)
        return read, stream.mask, None if self.still else stream.rotary

    def _normed(self, part: Callable[[Tensor], Tensor], norm: RMSNorm, hidden: Tensor) -> Tensor:
        return norm(part(hidden)) if self.norm_after else part(norm(hidden))


class Decoder(nn.Module):
    """Tokens to a stream, layers over it, and the last norm; the head is apart.

    Raises InputError where heads do not divide what they share.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        kv_heads: int | None = None,
        head_width: int | None = None,
        inner: int | None = None,
        context: int = 2048,
        activation: str = "silu",
        eps: float = 1e-5,
        qkv_bias: bool = False,
        out_bias: bool = False,
        mlp_bias: bool = False,
        qk_norm: QkNorm = False,
        norm_after: bool = False,
        rope: Rope = STANDARD,
        deviation: float = 0.02,
        scaled: bool = False,
        alike: float = 0.0,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.kv_heads, self.rope = kv_heads or heads, rope
        self.head_width = per_head(width, heads, kv_heads=kv_heads, given=head_width)
        if self.head_width % 2:
            raise InputError(f"a head width of {self.head_width} has an odd one out; rotary positions turn pairs")
        self.embedding = nn.Embedding(vocabulary, width)
        attention = partial(
            Attention, width=width, heads=heads, kv_heads=self.kv_heads, head_width=self.head_width, bias=qkv_bias,
            out_bias=out_bias, qk_norm=_qk_norm(qk_norm, self.head_width, eps), causal=True,
        )  # fmt: skip
        mlp = partial(GatedFeedForward, width=width, inner=inner or 4 * width, activation=activation, bias=mlp_bias)
        self.layers = nn.ModuleList(
            Layer(
                index=index, width=width, eps=eps, attention=attention(), mlp=mlp(), norm_after=norm_after,
                still=index in rope.still,
            )
            for index in range(depth)
        )  # fmt: skip
        self.norm = RMSNorm(width, eps=eps)
        self.apply(partial(small_normal, deviation=deviation))
        if scaled:
            scale_residual(self.layers, depth=depth)
        if alike:
            liken(self.layers, deviation=alike)

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Embed the tokens `[B L]`; positions continue, and the mask covers, what the cache holds."""
        stream = opened(self.embedding(batch.input_ids), batch, cache, window=self.window)
        frequencies = inverse_frequencies(self.head_width, self.rope, device=stream.hidden.device)
        turns = axes(len(frequencies), self.rope, device=frequencies.device) if self.rope.sections else None
        return replace(stream, rotary=tables(stream.positions, frequencies, dtype=stream.hidden.dtype, turns=turns))

    def enter(self, stream: Stream) -> Stream:
        """Nothing stands before layer 0."""
        return stream

    def cache(self, batch: int, length: int) -> KVCache:
        """Room for the keys and values of `batch` rows of `length` tokens, where the weights are."""
        return KVCache.like(self.embedding.weight, self.depth, (batch, self.kv_heads, length, self.head_width))


def opened(
    hidden: Float[Tensor, "B L D"], batch: Batch, cache: Cache | None = None, *, window: int | None = None
) -> Stream:
    """The stream of a model that writes, out of its embedded words: places, and who sees whom, go on from the cache.

    Raises InputError for branches in rows that are longer than the window.
    """
    valid = batch.valid if cache is None else cache.extend(batch.valid)
    length = batch.input_ids.shape[1]
    positions = batch.positions
    if positions is None:
        positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -length:]
        if cache is not None and cache.shift is not None:
            positions = positions + cache.shift[:, None]
    mask = None
    beyond = window is not None and valid.shape[1] > window
    if beyond and batch.branch is not None:
        raise InputError(
            f"rows of {valid.shape[1]} tokens with branches for a window of {window}; give one conversation a row"
        )
    plain = batch.full and batch.order is None and length in (1, valid.shape[1]) and not beyond
    fan = batch.fan if hidden.device.type == "cpu" else None  # elsewhere fused kernels are faster, under a mask
    if fan is None and not plain:
        mask = attention_mask(
            valid,
            queries=length,
            order=batch.order,
            segment=batch.segment,
            branch=batch.branch,
            window=window if beyond else None,
        )
    return Stream(
        hidden=hidden,
        positions=positions,
        slots=batch.image_slot,
        mask=mask,
        valid=batch.valid,
        prompt=batch.prompt,
        owner=batch.owner,
        looks=batch.looks,
        segment=batch.segment,
        branch=batch.branch,
        cache=cache,
        fan=fan,
    )


def _qk_norm(wanted: QkNorm, width: int, eps: float) -> Callable[[int], nn.Module] | None:
    if wanted == "own":
        return lambda heads: HeadNorm(heads, width)
    return (lambda heads: RMSNorm(width, eps=eps)) if wanted else None
