"""The multiway encoder: words and sight attend together, and each has weights of its own (BEiT-3, 2208.10442)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Apart, Batch, Cache, Stream
from foveal.layers.attention import attend, per_head
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.masks import attention_mask
from foveal.layers.mlp import activation_of
from foveal.layers.positions import Positions
from foveal.layers.speaking import Speaking


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the encoder; the defaults are a small one to train from scratch.

    `sub_norm` norms what attention has mixed and what the feed-forward has widened (Magneto, 2210.06423), `input_norm`
    the words and the sight that come in, `last_norm` what goes out.
    """

    vocabulary: int
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    context: int = 512
    activation: str = "gelu"
    eps: float = 1e-5
    sub_norm: bool = True
    input_norm: bool = False
    last_norm: bool = True


class Expert(nn.Module):
    """All weights that a layer has for one modality; tokens `[N D]` by themselves."""

    def __init__(
        self, *, width: int, heads: int, inner: int, activation: str, eps: float, sub_norm: bool, last_norm: bool
    ) -> None:
        super().__init__()
        self.head_width = per_head(width, heads)
        norm = partial(nn.LayerNorm, eps=eps)
        self.attention_norm = norm(width)
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))
        self.mixed_norm = norm(width) if sub_norm else nn.Identity()
        self.feed_norm = norm(width)
        self.up, self.down = Linear(width, inner), Linear(inner, width)
        self.inner_norm = norm(inner) if sub_norm else nn.Identity()
        self.last_norm = norm(width) if last_norm else nn.Identity()
        self.activation = activation_of(activation)

    def project(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N 3 H d"]:
        """Query, key and value of each head."""
        normed = self.attention_norm(hidden)
        parts = torch.stack([self.query(normed), self.key(normed), self.value(normed)], dim=1)
        return parts.unflatten(-1, (-1, self.head_width))

    def finish(self, hidden: Float[Tensor, "N D"], mixed: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """What attention has mixed is added, then fed and added."""
        hidden = hidden + self.out(self.mixed_norm(mixed))
        wide = self.activation(self.up(self.feed_norm(hidden)))
        return self.last_norm(hidden + self.down(self.inner_norm(wide)))


class Layer(Speaking):
    """Two experts around one attention: a stream to a stream."""

    def __init__(self, expert: Callable[[], Expert]) -> None:
        super().__init__()
        self.words, self.sight = expert(), expert()

    def everywhere(self, stream: Stream) -> Stream:
        """One layer."""
        query, key, value = self._projected(stream)
        return self._finished(stream, attend(query, key, value, mask=stream.mask))

    def only(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
        """What the layer says at these places of each row alone, `[B Q D]`: all that a last layer need say."""
        query, key, value = self._projected(stream)
        mask = stream.mask
        if mask is not None:
            mask = mask.take_along_dim(at[:, None, :, None], 2)
        mixed = attend(query.take_along_dim(at[:, None, :, None], 2), key, value, mask=mask)
        slots = stream.slots.gather(1, at)
        some = replace(
            stream,
            hidden=stream.hidden.take_along_dim(at[..., None], 1),
            positions=stream.positions.gather(1, at),
            slots=slots,
            mask=mask,
            apart=apart(slots >= 0),
        )
        return self._finished(some, mixed)

    def _projected(self, stream: Stream) -> Float[Tensor, "3 B H L d"]:
        rows, length, _ = stream.hidden.shape
        projected = each(self.words.project, self.sight.project, stream, stream.hidden.flatten(0, 1))
        return projected.view(rows, length, 3, *projected.shape[2:]).permute(2, 0, 3, 1, 4)

    def _finished(self, stream: Stream, mixed: Float[Tensor, "B H Q d"]) -> Stream:
        flat = stream.hidden.flatten(0, 1)
        states = each(self.words.finish, self.sight.finish, stream, flat, mixed.transpose(1, 2).reshape(flat.shape))
        return stream.with_hidden(states.view_as(stream.hidden))


class Multiway(nn.Module):
    """Tokens to a stream, and layers over it; visual tokens come with their positions, the heads are apart.

    Raises InputError where heads do not divide the width, and for a text longer than the context.
    """

    tells_valid = False  # in the stream

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
        eps: float = 1e-5,
        sub_norm: bool = True,
        input_norm: bool = False,
        last_norm: bool = True,
    ) -> None:
        super().__init__()
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = Positions(context, width)
        norm = partial(nn.LayerNorm, width, eps=eps) if input_norm else nn.Identity
        self.words_norm, self.sight_norm = norm(), norm()
        expert = partial(
            Expert, width=width, heads=heads, inner=inner or 4 * width, activation=activation, eps=eps,
            sub_norm=sub_norm,
        )  # fmt: skip
        # The last norm is of two kinds too, so it stands where the tokens are apart already.
        self.layers = nn.ModuleList(
            Layer(partial(expert, last_norm=last_norm and i == depth - 1)) for i in range(depth)
        )
        self.apply(small_normal)

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Words with their positions, which count words alone; places of visual tokens are left to the fusion.

        All see all, or what `Batch.order` lets them see. Padding is zero, sees the valid tokens and is seen by none.
        Raises InputError for a cache: what sees all cannot go on from a part.
        """
        if cache is not None:
            raise InputError("an encoder reads a text at once and takes no cache; leave it out")
        seen = batch.image_slot >= 0
        positions = batch.positions
        if positions is None:
            positions = ((batch.valid & ~seen).cumsum(1) - 1).clamp(min=0)
        self._check(positions)
        words = self.embedding(batch.input_ids) + self.positions(positions)
        return Stream(
            hidden=words * (batch.valid & ~seen)[..., None],
            positions=positions,
            slots=batch.image_slot,
            mask=_mask(batch),
            apart=None if torch.compiler.is_compiling() else apart(seen),
        )

    def enter(self, stream: Stream) -> Stream:
        """A norm for each modality, where they have one."""
        flat = stream.hidden.flatten(0, 1)
        return stream.with_hidden(each(self.words_norm, self.sight_norm, stream, flat).view_as(stream.hidden))

    def norm(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The last layer has normed it already."""
        return hidden

    def _check(self, positions: Tensor) -> None:
        if torch.compiler.is_compiling() or positions.shape[1] <= self.context:
            return
        if (longest := int(positions.max()) + 1) > self.context:
            raise InputError(f"{longest} words for an encoder of {self.context} positions; shorten the text")


def apart(seen: Bool[Tensor, "B L"]) -> Apart:
    """Which tokens are words and which are sight, by their places in the flattened batch."""
    flat = seen.flatten()
    words, sight = (~flat).nonzero()[:, 0], flat.nonzero()[:, 0]
    return Apart(words=words, sight=sight, back=torch.cat([words, sight]).argsort())


def each(
    words: Callable[..., Tensor], sight: Callable[..., Tensor], stream: Stream, *given: Float[Tensor, "N ..."]
) -> Float[Tensor, "N ..."]:
    """Every token through what belongs to its modality.

    Where a tracer must not count tokens, all go through both.
    """
    if stream.apart is not None:
        parts = [
            kind(*(part[places] for part in given))
            for kind, places in ((words, stream.apart.words), (sight, stream.apart.sight))
        ]
        return torch.cat(parts)[stream.apart.back]
    one, other = words(*given), sight(*given)
    return torch.where((stream.slots >= 0).view(-1, *(1 for _ in one.shape[1:])), other, one)


def _mask(batch: Batch) -> Bool[Tensor, "B 1 L K"] | None:
    if batch.full and batch.order is None:
        return None
    order = torch.zeros_like(batch.input_ids) if batch.order is None else batch.order
    return attention_mask(batch.valid, queries=order.shape[1], order=order, segment=batch.segment)
