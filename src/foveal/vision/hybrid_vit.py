"""Transformer blocks over the tokens of another encoder: the hybrid of the ViT paper (2010.11929), whose patches are
cells of convolutions.

It begins as what it looks at, for all that it adds passes gates; so an encoder that sees already gets a class token and
attention, by which strategies of the field choose, for little training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.lookup import build, spec
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.blocks import Block, attended
from foveal.layers.gates import Gate
from foveal.layers.initial import small_normal
from foveal.layers.sines import grid


@dataclass(frozen=True, kw_only=True)
class Config:
    """The encoder below, the `stem`, and `depth` blocks over its tokens."""

    stem: Mapping[str, Any] | str = "efficientnet_lite"
    depth: int = 2
    heads: int = 4
    inner: int = 512
    activation: str = "gelu"
    eps: float = 1e-6


class Look(nn.Module):
    """Places and a class token, blocks, and the class token read out into every patch (DPT, 2103.13413)."""

    def __init__(self, *, width: int, depth: int, heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.class_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
        self.place_gate, self.read_gate = Gate(), Gate()
        parts: dict[str, Any] = {"width": width, "heads": heads, "inner": inner, "activation": activation, "eps": eps}
        self.blocks = nn.ModuleList(Block(**parts, gate=0.0) for _ in range(depth))
        self.read = nn.Linear(width, width)
        self.apply(small_normal)

    def placed(self, patches: Float[Tensor, "T N E"], cells: Grid) -> Float[Tensor, "T S E"]:
        """What the first block reads."""
        places = grid(*cells, patches.shape[-1], device=patches.device).to(patches.dtype)
        return torch.cat([self.class_token.expand(len(patches), -1, -1), patches + self.place_gate(places)], dim=1)

    def before_last(self, hidden: Float[Tensor, "T S E"]) -> Float[Tensor, "T S E"]:
        """What the last block reads."""
        for block in self.blocks[:-1]:
            hidden = block(hidden)
        return hidden

    def forward(self, hidden: Float[Tensor, "T S E"]) -> Float[Tensor, "T N E"]:
        """The last block; then each patch with what the class token has gathered."""
        hidden = self.blocks[-1](hidden)
        return hidden[:, 1:] + self.read_gate(self.read(hidden[:, :1]))


class HybridVit(nn.Module):
    """Pixels to the stem's tokens as blocks over each picture leave them; the stem's levels stay beside them.

    Raises InputError for a stem that reads tiles or frames together or makes codes, and for no blocks.
    """

    def __init__(
        self,
        *,
        stem: Mapping[str, Any] | str = "efficientnet_lite",
        depth: int = 2,
        heads: int = 4,
        inner: int = 512,
        activation: str = "gelu",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.stem = build("vision", spec("vision", stem))
        more = [name for name in ("reads_tiles", "reads_frames", "codes") if getattr(self.stem, name, 0)]
        if more:
            raise InputError(
                f"hybrid_vit looks over pictures one by one, and its stem has {' and '.join(more)}; take one such as "
                "'aligned' or 'efficientnet_lite'"
            )
        if depth < 1:
            raise InputError(f"a hybrid_vit of {depth} blocks; give 1 or more, or take its stem alone")
        self.width, self.level_widths = self.stem.width, tuple(getattr(self.stem, "level_widths", ()))
        self.look = Look(width=self.width, depth=depth, heads=heads, inner=inner, activation=activation, eps=eps)

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """The stem's tokens."""
        layout = self.stem.plan(sizes)
        if None in layout.grids:
            raise InputError(
                "hybrid_vit looks over a grid, and its stem's tokens lie on none; take a stem that keeps it"
            )
        return layout

    def forward(self, pixels: Pixels) -> VisualTokens:
        """See, then look over what is seen."""
        seen, hidden = self._looked(pixels)
        return seen.with_features(self.look(hidden).flatten(0, 1))

    def attended(self, pixels: Pixels) -> VisualTokens:
        """The same with `attention`, that of the class token, and `keys` of the last block."""
        seen, hidden = self._looked(pixels)
        told = attended(self.look.blocks[-1], hidden, first=True)  # type: ignore[arg-type]
        attention, keys = (part[:, 1:].flatten(0, 1) for part in told)
        return replace(seen, features=self.look(hidden).flatten(0, 1), attention=attention, keys=keys)

    def _looked(self, pixels: Pixels) -> tuple[VisualTokens, Float[Tensor, "T S E"]]:
        seen = self.stem(pixels)
        (cells,) = set(seen.layout.grids)
        placed = self.look.placed(seen.features.unflatten(0, (len(pixels.values), -1)), cells)
        return seen, self.look.before_last(placed)
