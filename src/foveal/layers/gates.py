"""Gates and scales that learn how far a part is heard."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Gate(nn.Module):
    """Scales what passes by the tanh of a learned number, or of one for each of `width` (Flamingo, 2204.14198)."""

    def __init__(self, *, width: int = 1, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start))

    @property
    def opening(self) -> Float[Tensor, " D"]:
        """How far it is open, from -1 to 1."""
        return self.weight.tanh()

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """As much of it as the gate lets through."""
        return self.opening * hidden


class Scale(nn.Module):
    """Multiplies each channel of what passes by a learned number (LayerScale, 2103.17239)."""

    def __init__(self, *, width: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start))

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The same, each channel by its number."""
        return self.weight * hidden
