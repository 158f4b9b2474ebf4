"""Classes of a whole text with its images by two maps over the first token (LXMERT, 1908.07490; BEiT-3, 2208.10442)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes; `pre_norm` norms the token first, `late_norm` norms after the activation and not before it."""

    labels: int = 2
    pre_norm: bool = False
    late_norm: bool = False
    activation: str = "gelu"
    eps: float = 1e-5


class MlpClassification(nn.Module):
    """`hidden[B L D]` to `logits[B labels]` through twice the width."""

    first = True  # it reads no other token

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        labels: int = 2,
        pre_norm: bool = False,
        late_norm: bool = False,
        activation: str = "gelu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        self.pool, self.up, self.classes = Linear(width, width), Linear(width, 2 * width), Linear(2 * width, labels)
        self.inner_norm = nn.LayerNorm(2 * width, eps=eps)
        self.activation, self.late_norm = activation_of(activation), late_norm
        self.apply(small_normal)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B K"]:
        """Pool the first token, widen, score every class."""
        wide = self.up(torch.tanh(self.pool(self.norm(hidden[:, 0]))))
        if self.late_norm:
            return self.classes(self.inner_norm(self.activation(wide)))
        return self.classes(self.activation(self.inner_norm(wide)))
