"""Where the rooms meet: an image tokenizer by itself, pixels to codes and back (VQ-GAN's first stage, 2012.09841)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import ImageTokenizer
from foveal.core.lookup import build
from foveal.core.types import Batch, Grid, Layout, Pixels, Reconstruction
from foveal.models.config import ModelConfig

NEEDS = ("vision",)


class Autoencoder(nn.Module):
    """A vision encoder with a codebook and a decoder, and nothing that reads or writes.

    `usage` holds how often each code is chosen, as training has seen it of late; 1 is a fair share.
    """

    usage: Tensor

    def __init__(self, *, config: ModelConfig, vision: ImageTokenizer) -> None:
        super().__init__()
        self.config, self.vision = config, vision
        self.register_buffer("usage", torch.zeros(len(vision.codebook.weight)))

    def forward(self, batch: Batch, **wanted: Any) -> Reconstruction:
        """The batch's pixels through their codes and back.

        Raises InputError for a batch without pixels, and where anything else is `wanted`.
        """
        if wanted:
            raise InputError("an image tokenizer says nothing in words; train it by the objective 'reconstruct'")
        if not isinstance(batch.visual, Pixels):
            raise InputError("the batch holds no pixels for an image tokenizer to make again; give examples pictures")
        return self.vision.reconstruct(batch.visual.values)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """What one map after the other goes through: the levels of both directions."""
        return self.vision.levels

    def plan(self, sizes: Sequence[Grid] | Layout, frames: tuple[int, ...] | None = None) -> Layout:
        """The codes that images of these sizes (height, width) will bring, or `frames` of videos.

        Raises InputError for regions.
        """
        if isinstance(sizes, Layout):
            raise InputError(f"{sizes.total} regions for an image tokenizer, which reads whole pictures; give it these")
        return self.vision.plan(sizes).filmed(frames)


def assemble(config: ModelConfig) -> Autoencoder:
    """A tokenizer with fresh weights. Raises InputError where vision makes no pixels of codes, or has company."""
    wanted = config.part("vision")
    for room in ("language", "fusion", "head", "heads", "connector"):
        if getattr(config, room):
            raise InputError(f"an autoencoder is vision alone and the model has {room} too; leave either out")
    vision = build("vision", wanted)
    if not isinstance(vision, ImageTokenizer) or getattr(vision, "decoder", None) is None:
        raise InputError(f"vision {wanted.name!r} makes no pixels of codes; take 'vq' with its decoder")
    return Autoencoder(config=config, vision=vision)
