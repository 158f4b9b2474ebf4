"""The bidirectional language encoder: BERT (1810.04805), which reads words and sight in one stack."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cache, Stream
from foveal.layers.blocks import Block, PostNormBlock
from foveal.layers.initial import small_normal
from foveal.layers.masks import attention_mask
from foveal.layers.speaking import Speaking


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the encoder; the defaults are a small one to train from scratch, `types` its token types.

    With `pre_norm` layers norm before they attend and feed, words are normed without sight, and a norm stands at the
    end (ViLT, 2102.03334). After the words of the vocabulary come so many `marks`, which have neither place nor type
    and are never predicted (12-in-1's names of tasks, 1912.02315). `deviation` is that of the fresh weights: from
    BERT's, made for its width of 768, a narrow encoder is slow to tell one word's difference at the first token.
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    context: int = 512
    types: int = 2
    activation: str = "gelu"
    eps: float = 1e-12
    pre_norm: bool = False
    marks: int = 0
    deviation: float = 0.02


class Layer(Speaking, PostNormBlock):
    """Attend, add, norm; feed, add, norm: a stream to a stream."""

    def everywhere(self, stream: Stream) -> Stream:
        """One layer."""
        return stream.with_hidden(PostNormBlock.forward(self, stream.hidden, mask=stream.mask))

    def only(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
        """What the layer says at these places of each row alone, `[B Q D]`: all that a last layer need say."""
        mixed = self.attention(stream.hidden, mask=stream.mask, at=at)
        hidden = self.attention_norm(stream.hidden.take_along_dim(at[..., None], 1) + mixed)
        return stream.only(at).with_hidden(self.feed_norm(hidden + self.feed(hidden)))


class PreNormLayer(Block):
    """The same with its norms first: a stream to a stream."""

    def forward(self, stream: Stream) -> Stream:  # type: ignore[override]
        """One layer."""
        return stream.with_hidden(super().forward(stream.hidden, mask=stream.mask))


class Encoder(nn.Module):
    """Tokens to a stream, and layers over it in which all see all; the heads are apart.

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
        context: int = 512,
        types: int = 2,
        activation: str = "gelu",
        eps: float = 1e-12,
        pre_norm: bool = False,
        marks: int = 0,
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.types = nn.Embedding(types, width)
        self.marks = nn.Embedding(marks, width) if marks else None
        self.pre_norm, self.input_norm = pre_norm, nn.LayerNorm(width, eps=eps)
        self.last_norm = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        layer = partial(
            PreNormLayer if pre_norm else Layer, width=width, heads=heads, inner=inner or 4 * width,
            activation=activation, eps=eps,
        )  # fmt: skip
        self.layers = nn.ModuleList(layer() for _ in range(depth))
        self.apply(partial(small_normal, deviation=deviation))

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Words with their types and positions `[B L]`; a visual token's place holds what its words' places say.

        Raises InputError for a cache: what sees all cannot go on from a part.
        """
        if cache is not None:
            raise InputError("an encoder reads a text at once and takes no cache; leave it out")
        seen = batch.image_slot >= 0
        positions = batch.positions
        if positions is None:
            positions = ((batch.valid & ~seen).cumsum(1) - 1).clamp(min=0)
        self._check(positions)
        types = seen.long() if batch.types is None else batch.types
        words = self._words(batch.input_ids, types.masked_fill(seen, 0), positions)
        words = self.input_norm(words) if self.pre_norm else words
        shown = torch.zeros((), dtype=words.dtype, device=words.device)
        if batch.alignment is not None:
            shown = aligned(batch.alignment, self.positions.weight)[batch.image_slot.clamp(min=0)]
        flat = torch.zeros_like(batch.input_ids)
        mask = None
        if not batch.full:
            mask = attention_mask(batch.valid, queries=flat.shape[1], order=flat, segment=batch.segment)
        return Stream(
            hidden=torch.where(seen[..., None], shown, words),
            positions=positions,
            slots=batch.image_slot,
            mask=mask,
            types=types,
            valid=batch.valid,
        )

    def enter(self, stream: Stream) -> Stream:
        """One norm over words and sight together, where words are not normed yet."""
        return stream if self.pre_norm else stream.with_hidden(self.input_norm(stream.hidden))

    def norm(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The last norm, where the last layer has not normed already."""
        return self.last_norm(hidden)

    def _words(
        self, ids: Int[Tensor, "B L"], types: Int[Tensor, "B L"], positions: Int[Tensor, "B L"]
    ) -> Float[Tensor, "B L D"]:
        last = self.vocabulary - 1
        words = self.embedding(ids if self.marks is None else ids.clamp(max=last))
        words = words + self.types(types) + self.positions(positions)
        if self.marks is None:
            return words
        return torch.where((ids > last)[..., None], self.marks((ids - last - 1).clamp(min=0)), words)

    def _check(self, positions: Tensor) -> None:
        if torch.compiler.is_compiling() or positions.shape[1] <= self.context:
            return
        if (longest := int(positions.max()) + 1) > self.context:
            raise InputError(f"{longest} tokens for an encoder of {self.context} positions; shorten the text")


def aligned(places: Int[Tensor, "S A"], table: Float[Tensor, "P D"]) -> Float[Tensor, "S D"]:
    """The mean of the places' rows in a position `table`; -1 names no place, and none at all gives zeros."""
    named = (places >= 0).to(table.dtype)
    rows = F.embedding(places.clamp(min=0), table) * named[..., None]
    return rows.sum(1) / named.sum(1, keepdim=True).clamp(min=1)
