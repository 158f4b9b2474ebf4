"""What a hidden region shows: its features, or scores of its classes (ViLBERT, 1908.02265)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.transformed import Transformed


@dataclass(frozen=True, kw_only=True)
class Config:
    """`labels` classes (None: as many numbers as a region has features); the activation and norm before them."""

    labels: int | None = None
    activation: str = "gelu"
    eps: float = 1e-12


class RegionPrediction(Transformed):
    """`hidden[... D]` to `[... labels]`; the assembly fills in what None stands for."""

    reads = "sight"

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        table: nn.Parameter,
        labels: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__(width=width, activation=activation, eps=eps)
        self.classes = Linear(width, labels or width)
        small_normal(self.classes)

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """Transform and predict."""
        return self.classes(self.transformed(hidden))
