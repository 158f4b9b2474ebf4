"""An encoder and what a run has learned to make of it, as one: its tokens lie near the words for what they show.

What a contrastive tower is to large models (2103.00020), this is to small ones. Systems that begin with the same one
differ in how they fuse and not in how far they have learned to see; `init.vision: RUN` takes both halves from a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from foveal.core.errors import InputError
from foveal.core.lookup import build, spec
from foveal.core.types import Grid, Layout, Pixels, VisualTokens

_STARTER = {"name": "efficientnet_lite", "variant": 2, "taps": (8, 16, 32), "stride": 16}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The `encoder` and the connector behind it, the `neck`, to tokens of `width`: as they stand in a run's config.

    Those of the starter model where they are left out.
    """

    encoder: Mapping[str, Any] | str = field(default_factory=lambda: dict(_STARTER))
    neck: Mapping[str, Any] | str = field(default_factory=lambda: {"name": "conv_mlp", "kernel": 5, "width": 192})
    width: int = 192


class Aligned(nn.Module):
    """Pixels to the neck's tokens; the encoder's levels stay beside them.

    Raises InputError for an encoder that reads tiles or frames together or makes codes, a neck that looks through
    queries or hears questions, and in `plan` for a neck that folds what has levels.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any] | str,
        neck: Mapping[str, Any] | str,
        width: int,
    ) -> None:
        super().__init__()
        self.encoder = build("vision", spec("vision", encoder))
        self.neck = build("connectors", spec("connectors", neck), width_in=self.encoder.width, width_out=width)
        more = [name for name in ("reads_tiles", "reads_frames", "codes") if getattr(self.encoder, name, 0)]
        more += [name for name in ("latents", "query", "counts_images") if hasattr(self.neck, name)]
        if more:
            raise InputError(
                f"vision 'aligned' sees pictures one by one, and what it is given has {' and '.join(more)}; take an "
                "encoder such as 'vit' or 'efficientnet_lite' and a neck such as 'mlp' or 'conv_mlp'"
            )
        self.width, self.level_widths = width, tuple(getattr(self.encoder, "level_widths", ()))

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """What the neck makes of what the encoder brings."""
        layout = self.encoder.plan(sizes)
        made = self.neck.plan(layout)
        if self.level_widths and made.counts != layout.counts:
            raise InputError(
                f"the neck makes {sum(made.counts)} tokens of {sum(layout.counts)} and the levels of the encoder keep "
                "theirs; take a neck that folds nothing, or leave encoder.levels out"
            )
        return made

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Encode, connect."""
        return self.neck(self.encoder(pixels))
