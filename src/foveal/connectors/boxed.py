"""What a region shows and where it lies, each mapped and normed, in equal parts (LXMERT, 1908.07490)."""

from dataclasses import dataclass

from torch import nn

from foveal.core.types import Layout, VisualTokens
from foveal.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Config:
    """The epsilon of both norms."""

    eps: float = 1e-12


class Boxed(nn.Module):
    """`features[S E]` and their boxes to `features[S D]`, token by token."""

    def __init__(self, *, width_in: int, width_out: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.map, self.norm = Linear(width_in, width_out), nn.LayerNorm(width_out, eps=eps)
        self.box_map, self.box_norm = Linear(4, width_out), nn.LayerNorm(width_out, eps=eps)

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in."""
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """The mean of both."""
        boxes = visual.boxes.to(visual.features.dtype)
        return visual.with_features((self.norm(self.map(visual.features)) + self.box_norm(self.box_map(boxes))) / 2)
