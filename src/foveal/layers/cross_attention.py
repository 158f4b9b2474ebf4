"""Attention to another sequence than one's own: what is seen, read by what is written."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.layers.attention import attend, masked, per_head, weights
from foveal.layers.linear import Linear, amd, onednn_is_twice_as_fast, plain

KeyValue = tuple[Float[Tensor, "B G M d"], Float[Tensor, "B G M d"]]
Seen = Bool[Tensor, "B 1 #L M"] | Float[Tensor, "B 1 #L M"]  # what is looked at, or what is added to the scores
_MOST = 0.4  # of the multiplications, which are slower head by head: MKL is at its best in one large product
_MOST_OF_FEW = 0.45  # in up to two rows in float32, whose large product waits for the weights


class CrossAttention(nn.Module):
    """Queries of `[B L D]` over keys and values of a memory `[B M E]`, which are made once and may be kept.

    `inner` is the width of all H query heads together (None: that of the queries' stream); G key heads serve them in
    order. `qk_norm` makes the norm of heads of a width (None: no norm). Raises the InputError of `per_head`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        memory_width: int | None = None,
        inner: int | None = None,
        kv_heads: int | None = None,
        bias: bool = True,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        inner = inner or width
        self.head_width = per_head(inner, heads, kv_heads=kv_heads)
        self.query, self.out = Linear(width, inner, bias=bias), Linear(inner, width, bias=bias)
        shared = (kv_heads or heads) * self.head_width
        self.key, self.value = (Linear(memory_width or width, shared, bias=bias) for _ in range(2))
        self.query_norm, self.key_norm = (
            nn.Identity() if qk_norm is None else qk_norm(self.head_width) for _ in range(2)
        )

    def read(self, memory: Float[Tensor, "B M E"]) -> KeyValue:
        """Keys and values of the memory."""
        return self.key_norm(self._split(self.key(memory))), self._split(self.value(memory))

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: KeyValue,
        *,
        mask: Seen | None = None,
    ) -> Float[Tensor, "B L D"]:
        """What each token finds in the memory where the mask lets it look."""
        mixed = attend(self._asked(hidden), *memory, mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def glance(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: Float[Tensor, "B M E"],
        *,
        mask: Seen | None = None,
    ) -> Float[Tensor, "B L D"]:
        """`forward` over a memory that is looked at once, where few queries take over the maps of many keys and values.

        A key's product with a query is the memory's with the query mapped back, and values may be mixed before they
        are mapped: fewer multiplications where queries and heads together are fewer than the tokens of the memory.
        """
        if not self._glances(hidden, memory):
            return self(hidden, self.read(memory), mask=mask)
        asked = self._asked(hidden) * self.head_width**-0.5
        keys, values = (part.weight.unflatten(0, (-1, self.head_width)) for part in (self.key, self.value))
        scores = _by_head(asked, keys).flatten(1, 2) @ memory.mT
        seen = masked(scores.unflatten(1, asked.shape[1:3]), mask).softmax(-1).to(memory.dtype)
        blind = None if mask is None else _blind(mask)
        seen = seen if blind is None else seen.masked_fill(blind, 0)
        mixed = (seen.flatten(1, 2) @ memory).unflatten(1, asked.shape[1:3])
        mixed = _by_head(mixed, values.mT).transpose(1, 2).flatten(2)
        if self.value.bias is not None:
            mixed = mixed + (self.value.bias if blind is None else self.value.bias * ~blind[:, 0])
        return self.out(mixed)

    def _glances(self, hidden: Tensor, memory: Tensor) -> bool:
        """Whether that is faster: on a CPU, with plain maps as many as queries have, and no library that maps twice as
        fast.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or hidden.device.type != "cpu":
            return False
        mapped = plain(self.key) and plain(self.value) and type(self.key_norm) is nn.Identity
        asking = self.query.out_features == self.key.out_features and hidden.shape[1] * 2 <= self.head_width
        few = asking and memory.shape[1] >= 2 * hidden.shape[1] and not memory.requires_grad
        if not (mapped and few) or onednn_is_twice_as_fast():
            return False
        few = len(memory) <= 2 and memory.dtype == torch.float32
        share = _share(hidden.shape[1], memory.shape[1], self.head_width)
        return amd() or share <= (_MOST_OF_FEW if few else _MOST)

    def alone(self, memory: Float[Tensor, "*B M E"]) -> Float[Tensor, "*B M D"]:
        """What each of the memory would tell whoever looked at it alone."""
        values = self.value(memory).unflatten(-1, (-1, self.head_width))
        shared = self.query.out_features // self.value.out_features
        return self.out(values.repeat_interleave(shared, dim=-2).flatten(-2))

    def weights(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: KeyValue,
        *,
        mask: Seen | None = None,
    ) -> Float[Tensor, "B H L M"]:
        """How much each token takes of each of the memory in `forward`."""
        return weights(self._asked(hidden), memory[0], mask=mask)

    def _asked(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        return self.query_norm(self._split(self.query(hidden)))

    def _split(self, heads: Tensor) -> Tensor:
        return heads.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


def _share(queries: int, seen: int, head_width: int) -> float:
    """Multiplications of queries that take over the maps, as a share of those with keys and values for all they see."""
    return queries * (seen + head_width) / (seen * (queries + head_width))


def _by_head(rows: Float[Tensor, "B H L d"], maps: Float[Tensor, "H d E"]) -> Float[Tensor, "B H L E"]:
    """Each head of all rows through its own map, which is not copied for every row."""
    return (rows.transpose(0, 1).flatten(1, 2) @ maps).unflatten(1, (len(rows), -1)).transpose(0, 1)


def _blind(mask: Seen) -> Bool[Tensor, "B 1 #L 1"]:
    """Who may look at nothing, and finds nothing."""
    return (mask == -torch.inf if mask.is_floating_point() else ~mask).all(-1, keepdim=True)
