"""No connector: the vision width is the language width already."""

from dataclasses import dataclass

from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """The identity has no settings."""


class Identity(nn.Module):
    """`features[S D]` as they are; raises InputError where the widths differ."""

    def __init__(self, *, width_in: int, width_out: int) -> None:
        super().__init__()
        if width_in != width_out:
            raise InputError(
                f"the identity connector joins equal widths, but vision has {width_in} and language {width_out}; "
                "use linear or mlp"
            )

    def plan(self, layout: Layout) -> Layout:
        """As many tokens as come in."""
        return layout

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """The same tokens."""
        return visual
