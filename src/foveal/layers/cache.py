"""Keys and values of earlier tokens, in buffers of fixed size, so that a step copies no more than its own token."""

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

    def of(self, rows: Int[Tensor, " N"]) -> "_Held":
        """Those of some rows."""
        return _Held(columns=self.columns[rows], real=None if self.real is None else self.real[rows])


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
            return self._before(layer).real
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
        _, kv_heads, _, head_width = self._shape
        forked = KVCache(
            layers=len(self._stores), batch=len(rows), kv_heads=kv_heads, length=length, head_width=head_width,
            **self._made,
        )  # fmt: skip
        forked.extend(self.valid[rows, : self.filled])
        forked.shift = None if self.shift is None else self.shift[rows]
        forked._held = {layer: held.of(rows) for layer, held in self._held.items()}
        for layer, store in enumerate(self._stores):  # one at a time: indexing copies
            if store is not None:
                forked.update(layer, *(part[rows, :, : self._ends[layer]] for part in store))
        for layer, (key, value, mask) in self.memory.items():
            forked.memory[layer] = key[rows], value[rows], None if mask is None else mask[rows]
        return forked

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
