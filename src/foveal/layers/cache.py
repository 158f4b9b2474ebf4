"""Keys and values of earlier tokens, in buffers of fixed size, so that a step copies no more than its own token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError


class KVCache:
    """Room for `length` tokens in every layer: `[layers B H length d]`, of which the first `filled` are in use.

    A forward pass calls `extend` once, before the first layer, and then `update` in each layer. `memory` is filled
    once by layers that read a memory, which a later pass need not bring again.
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
        shape = (layers, batch, kv_heads, length, head_width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.valid = torch.zeros(batch, length, dtype=torch.bool, device=device)
        self.length, self.filled, self._start = length, 0, 0
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def extend(self, valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B K"]:
        """Make room for new tokens and return the validity of all; raises InputError when there is none left."""
        start, end = self.filled, self.filled + valid.shape[1]
        if end > self.length:
            raise InputError(
                f"{valid.shape[1]} tokens after {start} do not fit a cache of {self.length}; make the cache longer"
            )
        self.valid[:, start:end] = valid
        self._start, self.filled = start, end
        return self.valid[:, :end]

    def update(
        self, layer: int, key: Float[Tensor, "B H L d"], value: Float[Tensor, "B H L d"]
    ) -> tuple[Float[Tensor, "B H K d"], Float[Tensor, "B H K d"]]:
        """Keep the new keys and values of a layer; returns views of all of them."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self._start : self.filled] = key
        values[:, :, self._start : self.filled] = value
        return keys[:, :, : self.filled], values[:, :, : self.filled]

    def fork(self, rows: Int[Tensor, " N"], length: int) -> "KVCache":
        """A cache of N rows with room for `length` tokens that begins as copies of these `rows`; this one stays."""
        layers, _, kv_heads, _, head_width = self.keys.shape
        forked = KVCache(
            layers=layers,
            batch=len(rows),
            kv_heads=kv_heads,
            length=length,
            head_width=head_width,
            dtype=self.keys.dtype,
            device=self.keys.device,
        )
        forked.extend(self.valid[rows, : self.filled])
        for layer in range(layers):  # one at a time: indexing copies
            forked.keys[layer, :, :, : self.filled] = self.keys[layer, rows, :, : self.filled]
            forked.values[layer, :, :, : self.filled] = self.values[layer, rows, :, : self.filled]
        for layer, (key, value, mask) in self.memory.items():
            forked.memory[layer] = key[rows], value[rows], None if mask is None else mask[rows]
        return forked
