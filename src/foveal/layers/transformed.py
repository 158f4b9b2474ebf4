"""What stands before a pointwise prediction: a map, an activation and a norm (BERT, 1810.04805)."""

from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of


class Transformed(nn.Module):
    """A head that predicts from `transformed(hidden)`."""

    def __init__(self, *, width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.transform = Linear(width, width)
        small_normal(self.transform)
        self.activation, self.norm = activation_of(activation), nn.LayerNorm(width, eps=eps)

    def transformed(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Map, activate, norm."""
        return self.norm(self.activation(self.transform(hidden)))
