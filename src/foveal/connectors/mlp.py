"""A stack of linear maps with an activation between them: mlp2x_gelu, mlp4x_gelu ... (LLaVA-1.5, 2310.03744)."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.layers.linear import Linear
from foveal.layers.mlp import activation_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the MLP connector: `depth` linear maps, all but the first of the language width."""

    depth: int = 2
    activation: str = "gelu"
    bias: bool = True


class Mlp(nn.Module):
    """`features[S E]` to `features[S D]`, token by token; raises InputError for a depth below 1."""

    def __init__(
        self, *, width_in: int, width_out: int, depth: int = 2, activation: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"a connector mlp of depth {depth}; give 1 or more")
        widths = [width_in] + [width_out] * depth
        self.maps = nn.ModuleList(Linear(a, b, bias=bias) for a, b in pairwise(widths))
        self.activation = activation_of(activation)

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in."""
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Map every token."""
        features = visual.features
        for i, step in enumerate(self.maps):
            features = step(self.activation(features) if i else features)
        return visual.with_features(features)
