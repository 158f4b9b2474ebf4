"""Multi-head attention, once for every room: bidirectional or causal, grouped, rotary, cached."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Cache, Fan
from foveal.layers.fan import attend_fan
from foveal.layers.linear import Linear
from foveal.layers.precision import own_dtype
from foveal.layers.rotary import rotate
from foveal.layers.staircase import attend_by_stretches, learns_by_stretches

Mask = Bool[Tensor, "B 1 #L K"] | Float[Tensor, "B #H #L K"]  # who sees whom, or what is added to the scores
Rotary = tuple[Float[Tensor, "B 1 L r"], Float[Tensor, "B 1 L r"]]  # cosines and sines of the places
Read = tuple[Float[Tensor, "B L D"], Mask | None, Rotary | None]  # what attention is given of a stream
Gates = tuple[Float[Tensor, "B queries"], Float[Tensor, "B keys"]]  # what scales a row's queries, and its keys


def attend(
    query: Float[Tensor, "B H L d"],
    key: Float[Tensor, "B G K d"],
    value: Float[Tensor, "B G K d"],
    *,
    mask: Mask | None = None,
    causal: bool = False,
) -> Float[Tensor, "B H L d"]:
    """Scaled dot-product attention; G key heads serve H query heads in order (grouped-query attention, 2305.13245)."""
    mask = mask.to(query.dtype) if mask is not None and mask.is_floating_point() else mask
    if query.shape[2] == 1 and query.shape[1] != key.shape[1] and not causal:
        return _of_one(query, key, value, mask)
    settings: dict[str, Any] = {"attn_mask": mask, "is_causal": causal, "enable_gqa": query.shape[1] != key.shape[1]}
    if query.requires_grad and query.device.type == "cpu":
        # on processors torch's gradient of attention takes several times as long in half precision as in float32
        precise = torch.promote_types(value.dtype, torch.float32)
        query, key, whole = query.to(precise), key.to(precise), value.to(precise)
        settings["attn_mask"] = mask.to(precise) if mask is not None and mask.is_floating_point() else mask
        with own_dtype(query):
            if causal and mask is None and learns_by_stretches(query, key, whole):
                return attend_by_stretches(query, key, whole).to(value.dtype)
            return F.scaled_dot_product_attention(query, key, whole, **settings).to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value, **settings)


def _of_one(
    query: Float[Tensor, "B H 1 d"], key: Float[Tensor, "B G K d"], value: Float[Tensor, "B G K d"], mask: Mask | None
) -> Float[Tensor, "B H 1 d"]:
    """One token's heads as queries of the key head that they share, which is then read once and not for each."""
    groups = key.shape[1]
    each = query.shape[1] // groups
    if mask is not None and mask.shape[1] != 1:
        mask = mask.reshape(len(mask), groups, each, mask.shape[-1])
    together = query.reshape(len(query), groups, each, query.shape[-1])
    return attend(together, key, value, mask=mask).reshape(*query.shape[:-1], value.shape[-1])


def attend_apart(
    query: Float[Tensor, "B H L d"],
    key: Float[Tensor, "B G L d"],
    value: Float[Tensor, "B G L d"],
    *,
    lengths: tuple[int, ...],
) -> Float[Tensor, "B H L d"]:
    """What `attend` gives among each stretch of so many tokens alone, at the cost of what is seen and not of all pairs.

    Neighbouring stretches of one length go together. All is done in the precision of `value`, to which queries and keys
    that were turned in a greater one come back.
    """
    parts, begin = [], 0
    query, key = query.to(value.dtype), key.to(value.dtype)
    for length, run in groupby(lengths):
        count = len(list(run))
        own = [part[:, :, begin : begin + count * length] for part in (query, key, value)]
        apart = [part.unflatten(2, (count, length)).transpose(1, 2).flatten(0, 1) for part in own]
        if value.device.type == "cpu":  # the kernel there takes a quarter less time over heads that lie together
            apart = [part.contiguous() for part in apart]
        seen = attend(*apart).unflatten(0, (len(query), count)).transpose(1, 2).flatten(2, 3)
        parts.append(seen)
        begin += count * length
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def weights(
    query: Float[Tensor, "B H L d"],
    key: Float[Tensor, "B G K d"],
    *,
    mask: Mask | None = None,
    causal: bool = False,
) -> Float[Tensor, "B H L K"]:
    """How much each query takes of each key in `attend`, which never holds all of it."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return masked(scores, mask).softmax(-1)


def masked(scores: Float[Tensor, "*B L K"], mask: Tensor | None) -> Float[Tensor, "*B L K"]:
    """Scores where the mask lets look, or with what it adds."""
    if mask is None:
        return scores
    return scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float("-inf"))


def per_head(width: int, heads: int, *, kv_heads: int | None = None, given: int | None = None) -> int:
    """The `given` width of a head, or what each has of a width that all share.

    Raises InputError where heads do not divide that, and where key heads do not divide the heads.
    """
    if heads < 1 or (not given and width % heads):
        raise InputError(f"{heads} heads do not divide a width of {width}; give a divisor of the width")
    if kv_heads and (kv_heads < 1 or heads % kv_heads):
        raise InputError(f"{kv_heads} kv_heads do not divide {heads} heads; give a divisor of the heads")
    return given or width // heads


class Attention(nn.Module):
    """Self-attention `[B L D]` to `[B L D]`.

    `qk_norm` makes the norm of so many query or key heads (None: no norm; 2302.05442). Raises the InputError of
    `per_head`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        out_bias: bool = True,
        qk_norm: Callable[[int], nn.Module] | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads or heads, causal
        self.head_width = per_head(width, heads, kv_heads=kv_heads, given=head_width)
        self.query = Linear(width, self.heads * self.head_width, bias=bias)
        self.key = Linear(width, self.kv_heads * self.head_width, bias=bias)
        self.value = Linear(width, self.kv_heads * self.head_width, bias=bias)
        self.out = Linear(self.heads * self.head_width, width, bias=out_bias)
        self.query_norm = qk_norm(self.heads) if qk_norm is not None else nn.Identity()
        self.key_norm = qk_norm(self.kv_heads) if qk_norm is not None else nn.Identity()

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        *,
        mask: Mask | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        fan: Fan | None = None,
        gates: Gates | None = None,
        at: Int[Tensor, "B Q"] | None = None,
        lengths: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "B #Q D"]:
        """Attend within `hidden` and, with a cache, to the earlier tokens of `layer`.

        Without a mask all tokens are seen, or the earlier ones (`causal`), or what the `fan` says, or with `lengths`
        those of the stretch of so many in which one stands. `gates` scale every row's queries and keys. The result is
        that of the places `at` of each row; None: of all.
        """
        query, key, value = self.own(hidden, rotary, gates, at)
        if cache is not None:
            key, value = cache.update(layer, key, value)
        causal = self.causal and mask is None and hidden.shape[1] > 1
        if at is not None:
            mask = _rows(mask, at, length=hidden.shape[1], keys=key.shape[2], causal=causal)
        if fan is not None:
            mixed = attend_fan(query, key, value, fan=fan)
        elif lengths is not None:
            mixed = attend_apart(query, key, value, lengths=lengths)
        else:
            mixed = attend(query, key, value, mask=mask, causal=causal and at is None)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(
        self,
        hidden: Float[Tensor, "B L D"],
        *,
        mask: Mask | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        gates: Gates | None = None,
        at: Int[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B H #Q L"]:
        """How much each token, or those `at` these places, take of each in `forward`, without a cache or a fan."""
        query, key, _ = self.project(hidden, rotary, gates, at)
        length, causal = hidden.shape[1], self.causal and mask is None
        if mask is not None:
            mask = mask[..., -length:]
        if at is not None:
            mask = _rows(mask, at, length=length, keys=length, causal=causal)
        return weights(query, key, mask=mask, causal=causal and at is None)

    def project(
        self,
        hidden: Float[Tensor, "B L D"],
        rotary: tuple[Tensor, Tensor] | None = None,
        gates: Gates | None = None,
        at: Int[Tensor, "B Q"] | None = None,
    ) -> tuple[Float[Tensor, "B H #Q d"], Float[Tensor, "B G L d"], Float[Tensor, "B G L d"]]:
        """Queries (of the places `at` alone), keys and values of each head, normed and turned to their positions."""
        return self.own(hidden, rotary, gates, at)

    def own(
        self,
        hidden: Float[Tensor, "B L D"],
        rotary: tuple[Tensor, Tensor] | None = None,
        gates: Gates | None = None,
        at: Int[Tensor, "B Q"] | None = None,
    ) -> tuple[Float[Tensor, "B H #Q d"], Float[Tensor, "B G L d"], Float[Tensor, "B G L d"]]:
        """What `project` gives, of the heads that this process has, where several have some each."""
        asking = hidden if at is None else hidden.take_along_dim(at[..., None], 1)
        query, key = self.query(asking), self.key(hidden)
        if gates is not None:
            query, key = query * gates[0][:, None], key * gates[1][:, None]
        query = self.query_norm(query.unflatten(-1, (-1, self.head_width))).transpose(1, 2)
        key = self.key_norm(key.unflatten(-1, (-1, self.head_width))).transpose(1, 2)
        value = self.value(hidden).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        if rotary is not None:
            turned = rotary if at is None else [table.take_along_dim(at[:, None, :, None], 2) for table in rotary]
            query, key = rotate(query, *turned), rotate(key, *rotary)
        return query, key, value


def _rows(
    mask: Mask | None, at: Int[Tensor, "B Q"], *, length: int, keys: int, causal: bool
) -> Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B #H Q K"] | None:
    """The mask's rows of the queries at these places of the last `length`; None where they see all keys."""
    places = at[:, None, :, None]
    if mask is not None:
        return mask.take_along_dim(places, 2)
    return torch.arange(keys, device=at.device) <= places + (keys - length) if causal else None
