"""Attention to another sequence than one's own: what is seen, read by what is written."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.layers.attention import attend, weights
from foveal.layers.linear import Linear

KeyValue = tuple[Float[Tensor, "B H M d"], Float[Tensor, "B H M d"]]


class CrossAttention(nn.Module):
    """Queries of `[B L D]` over keys and values of a memory `[B M E]`, which are made once and may be kept.

    `inner` is the width of all heads together (None: that of the queries' stream).
    """

    def __init__(self, *, width: int, heads: int, memory_width: int | None = None, inner: int | None = None) -> None:
        super().__init__()
        self.heads, inner = heads, inner or width
        self.query, self.out = Linear(width, inner), Linear(inner, width)
        self.key, self.value = (Linear(memory_width or width, inner) for _ in range(2))

    def read(self, memory: Float[Tensor, "B M E"]) -> KeyValue:
        """Keys and values of the memory."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: KeyValue,
        *,
        mask: Bool[Tensor, "B 1 #L M"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """What each token finds in the memory where the mask lets it look."""
        mixed = attend(self._split(self.query(hidden)), *memory, mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: KeyValue,
        *,
        mask: Bool[Tensor, "B 1 #L M"] | None = None,
    ) -> Float[Tensor, "B H L M"]:
        """How much each token takes of each of the memory in `forward`."""
        return weights(self._split(self.query(hidden)), memory[0], mask=mask)

    def _split(self, heads: Tensor) -> Tensor:
        return heads.unflatten(-1, (self.heads, -1)).transpose(1, 2)
