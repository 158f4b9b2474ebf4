"""One linear map from vision width to language width (LLaVA, 2304.08485)."""

from dataclasses import dataclass

from torch import nn

from foveal.core.types import Layout, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the linear connector."""

    bias: bool = True


class Linear(nn.Module):
    """`features[S E]` to `features[S D]`, token by token."""

    def __init__(self, *, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__()
        self.map = nn.Linear(width_in, width_out, bias=bias)

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in."""
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Map every token."""
        return visual.with_features(self.map(visual.features))
