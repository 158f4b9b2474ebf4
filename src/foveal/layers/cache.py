"""Keys and values of earlier tokens, in buffers of fixed size, so that a step copies no more than its own token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Which of a row's tokens the layers from one on hold, by their columns in the whole; `real` ones (None: all)."""

    columns: Int[Tensor, "B K"]
    real: Bool[Tensor, "B K"] | None

    def older(self, length: int) -> "_Held":
        """The same without the `length` newest."""
        count = self.columns.shape[1] - length
        return _Held(columns=self.columns[:, :count], real=None if self.real is None else self.real[:, :count])


class KVCache:
    """Room for `length` tokens in every layer: `[B H length d]` each, of which the first are in use.

    A forward pass calls `extend` once, before the first layer, and then `update` in each layer. Where tokens leave the
    stream before a layer, `thin` says which are left: that layer and those after it hold no others, and need no room
    for them: each buffer is made when its layer first speaks. `memory` is filled once by layers that read a memory,
    which a later pass need not bring again.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        length: int,
        head_width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._shape: tuple[int, int, int, int] = (batch, kv_heads, length, head_width)
        self._made: dict[str, Any] = {"dtype": dtype, "device": device}
        self._stores: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._ends = [0] * layers
        self._held: dict[int, _Held] = {}
        self.valid = torch.zeros(batch, length, dtype=torch.bool, device=device)
        self.length, self.filled = length, 0
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self.shift: Tensor | None = None

    @classmethod
    def like(cls, weight: Tensor, layers: int, shape: tuple[int, int, int, int]) -> "KVCache":
        """Room for keys and values of a shape `[B H length d]`, where a weight is and in its dtype."""
        batch, kv_heads, length, head_width = shape
        made: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        return cls(layers=layers, batch=batch, kv_heads=kv_heads, length=length, head_width=head_width, **made)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of a row each layer holds."""
        return tuple(self._ends)

    @property
    def tokens(self) -> Int[Tensor, " B"]:
        """How many tokens of each row it holds."""
        return self.valid[:, : self.filled].sum(1)

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(part.numel() * part.element_size() for store in self._stores if store for part in store)

    def extend(self, valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B K"]:
        """Make room for new tokens and return the validity of all; raises InputError when there is none left."""
        start, end = self.filled, self.filled + valid.shape[1]
        if end > self.length:
            raise InputError(
                f"{valid.shape[1]} tokens after {start} do not fit a cache of {self.length}; make the cache longer"
            )
        self.valid[:, start:end] = valid
        self.filled = end
        return self.valid[:, :end]

    def update(
        self, layer: int, key: Float[Tensor, "B H L d"], value: Float[Tensor, "B H L d"]
    ) -> tuple[Float[Tensor, "B H K d"], Float[Tensor, "B H K d"]]:
        """Keep the new keys and values of a layer; returns views of all of them."""
        start = self._ends[layer]
        end = start + key.shape[2]
        keys, values = self._stores[layer] or self._store(layer, self.length - (self.filled - end))
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        self._ends[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def held(self, layer: int) -> tuple[Float[Tensor, "B H K d"], Float[Tensor, "B H K d"]]:
        """Views of the keys and values that a layer holds, of no token before its first."""
        rows, kv_heads, _, head_width = self._shape
        if (store := self._stores[layer]) is None:
            none = torch.empty(rows, kv_heads, 0, head_width, **self._made)
            return none, none
        return store[0][:, :, : self._ends[layer]], store[1][:, :, : self._ends[layer]]

    def thin(
        self, layer: int, at: Int[Tensor, "B Q"] | None, real: Bool[Tensor, "B Q"] | None, *, length: int
    ) -> Bool[Tensor, "B K"] | None:
        """From `layer` on hold, of the `length` new tokens that came so far, only those `at` (None: all of them).

        Called once a pass, for one such layer after the other. Returns which of all that is held there are `real` and
        no padding (None: all).
        """
        if at is None and layer not in self._held:
            return self._before(layer).real if self._held else None
        before = self._before(layer)
        fresh = before.columns[:, -length:] if at is None else before.columns[:, -length:].gather(1, at)
        held = self._held.get(layer) or before.older(length)
        columns = torch.cat([held.columns, fresh], dim=1)
        if held.real is not None or real is not None:
            parts = (held.columns, held.real), (fresh, real)
            real = torch.cat([torch.ones_like(c, dtype=torch.bool) if r is None else r for c, r in parts], dim=1)
        self._held[layer] = _Held(columns=columns, real=real)
        return real

    def where(self, layer: int) -> Int[Tensor, "B K"] | None:
        """Where what `layer` holds stands among what the layer before it holds; None: there is no difference."""
        if layer not in self._held:
            return None
        return torch.searchsorted(self._before(layer).columns.contiguous(), self._held[layer].columns)

    def fork(self, rows: Int[Tensor, " N"], length: int) -> "KVCache":
        """A cache of N rows with room for `length` tokens that begins as copies of these `rows`; this one stays."""
        return join([(self, rows)], room=length - self.filled)

    def _before(self, layer: int) -> _Held:
        """What the layer before this one holds."""
        earlier = [other for other in self._held if other < layer]
        if earlier:
            return self._held[max(earlier)]
        whole = torch.arange(self.filled, device=self.valid.device).expand(len(self.valid), -1)
        return _Held(columns=whole, real=None)

    def _store(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        rows, kv_heads, _, head_width = self._shape
        shape = (rows, kv_heads, length, head_width)
        made = torch.empty(shape, **self._made), torch.empty(shape, **self._made)
        self._stores[layer] = made
        return made


Some = tuple[KVCache, Int[Tensor, " _"]]  # some rows of a cache
_Memory = tuple[Tensor, Tensor, Tensor | None]


def join(parts: Sequence[Some], *, room: int) -> KVCache:
    """A cache that begins as copies of these rows, one under the other, with room for so many tokens more.

    All rows end at its last place, where the next token comes: shorter ones are padded on their left, and places that
    are nobody's are left out. The caches that the rows are of stay as they are.
    """
    caches, first = [cache for cache, _ in parts], parts[0][0]
    real = [cache.valid[rows, : cache.filled] for cache, rows in parts]
    skips = [_empty(one) for one in real]
    valid = _ending_together(real, skips, dim=1)
    _, kv_heads, _, head_width = first._shape
    made = KVCache(
        layers=len(first._stores), batch=len(valid), kv_heads=kv_heads, length=valid.shape[1] + room,
        head_width=head_width, **first._made,
    )  # fmt: skip
    made.extend(valid)
    if any(cache.shift is not None for cache in caches):
        shifts = [torch.zeros_like(cache.tokens) if cache.shift is None else cache.shift for cache in caches]
        made.shift = torch.cat([shift[rows] for shift, (_, rows) in zip(shifts, parts, strict=True)])
    for layer in range(len(first._stores)):
        if any(layer in cache._held for cache in caches):
            made._held[layer], skips = _held_together(parts, layer, filled=made.filled)
        if any(cache._stores[layer] is not None for cache in caches):  # one layer at a time: indexing copies
            pairs = [[part.index_select(0, rows) for part in cache.held(layer)] for cache, rows in parts]
            keys, values = (_ending_together(some, skips, dim=2, room=room) for some in zip(*pairs, strict=True))
            made._stores[layer], made._ends[layer] = (keys, values), keys.shape[2] - room
    for layer in sorted({layer for cache in caches for layer in cache.memory}):
        made.memory[layer] = _read_together([(cache.memory.get(layer), rows) for cache, rows in parts])
    return made


def _held_together(parts: Sequence[Some], layer: int, *, filled: int) -> tuple[_Held, list[int]]:
    """What `layer` holds of these rows, which have now so many places, and how many of each part's are nobody's."""
    columns, real = [], []
    for cache, rows in parts:
        held = cache._held.get(layer) or cache._before(layer)
        columns.append(held.columns[rows])
        mine = cache.valid[rows].gather(1, columns[-1].clamp(min=0))
        real.append(mine if held.real is None else mine & held.real[rows])
    skips = [_empty(one) for one in real]
    moved = [at + 1 + filled - cache.filled for at, (cache, _) in zip(columns, parts, strict=True)]
    left, both = _ending_together(moved, skips, dim=1).clamp(min=0), _ending_together(real, skips, dim=1)
    return _Held(columns=left - 1, real=None if bool(both.all()) else both), skips  # -1: before all that is real


def _read_together(parts: Sequence[tuple[_Memory | None, Int[Tensor, " _"]]]) -> _Memory:
    """The memories of these rows; one of none sees nothing of what others read."""
    given = [memory for memory, _ in parts if memory is not None]
    asking = next((mask.shape[2] for _, _, mask in given if mask is not None), 1)
    keys, values, masks = [], [], []
    for memory, rows in parts:
        none = [part[:0].new_zeros(len(rows), part.shape[1], 0, part.shape[3]) for part in given[0][:2]]
        key, value = none if memory is None else (part[rows] for part in memory[:2])
        told = None if memory is None else memory[2]
        masks.append(key.new_ones(len(rows), 1, asking, key.shape[2]).bool() if told is None else told[rows])
        keys.append(key)
        values.append(value)
    skips = [_empty(one) for one in masks]
    mask = _ending_together(masks, skips, dim=3)
    plain = all(one[2] is None for one in given) and bool(mask.all())
    pair = _ending_together(keys, skips, dim=2), _ending_together(values, skips, dim=2)
    return *pair, None if plain else mask


def _empty(real: Bool[Tensor, "*rows K"]) -> int:
    """At how many first places there is nothing in any row."""
    return int((~real.flatten(0, -2).any(0)).cumprod(0).sum())


def _ending_together(parts: Sequence[Tensor], skips: Sequence[int], *, dim: int, room: int = 0) -> Tensor:
    """Rows without so many first places of each part's, zeros before the shorter ones, and room behind all of them."""
    longest = max(part.shape[dim] - skip for part, skip in zip(parts, skips, strict=True))
    shape = list(parts[0].shape)
    shape[0], shape[dim] = sum(map(len, parts)), longest + room
    made = parts[0].new_zeros(shape)
    begin = 0
    for part, skip in zip(parts, skips, strict=True):
        count = part.shape[dim] - skip
        mine = made.narrow(0, begin, len(part)).narrow(dim, longest - count, count)
        mine.copy_(part.narrow(dim, skip, count))
        begin += len(part)
    return made
