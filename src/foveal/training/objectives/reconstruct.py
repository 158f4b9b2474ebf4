"""Pictures through the codes of an image tokenizer and back (VQ-VAE, 1711.00937; VQ-GAN, 2012.09841).

A codebook that only follows its states collapses: an entry that is chosen by none never moves. Entries that fell out
of use are therefore set to states of the batch, drawn by their squared distance to what stands for them now, as
k-means++ draws its centres (Arthur and Vassilvitskii, 2007); at the first step that is all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast, reduce
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Reconstruction
from foveal.core.usage import MEMORY, USED, perplexity
from foveal.training.settings import check_weights
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("autoencoder",), sets=("vision.codebook",), blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The weight of the states' distance to their codes, beside the pixels' own loss."""

    commitment: float = 0.25

    def __post_init__(self) -> None:
        check_weights("reconstruct", commitment=self.commitment)


def reconstruct(
    model: nn.Module, batch: Batch, *, commitment: float = 0.25
) -> tuple[Tensor, int, Mapping[str, tuple[Tensor, int]]]:
    """The loss summed over the images, and their number; unused codes of a tokenizer in training mode are set anew.

    An image's loss is the mean over its values of |error| + error^2 (the one keeps lines sharp, the other colours
    right), and both codebook losses.
    Raises InputError for a model that is no image tokenizer.
    """
    if not hasattr(model, "usage"):
        raise InputError("the objective 'reconstruct' teaches an image tokenizer; give the model assembly: autoencoder")
    made: Reconstruction = model(batch)
    wanted: Tensor = batch.visual.values  # type: ignore[union-attr]
    count = len(wanted)
    error = made.pixels.float() - wanted
    parts = {
        "pixels": error.abs().mean() + error.square().mean(),
        "commitment": made.commitment,
        "codebook": made.codebook,
    }
    loss = parts["pixels"] + commitment * made.commitment + made.codebook
    told = {name: (count * part, count) for name, part in parts.items()}
    if model.vision.training:  # type: ignore[union-attr]
        told |= {f"codes_{name}": (part, 1) for name, part in renewed(model, made).items()}
    return count * loss, count, told


@torch.no_grad()
def renewed(model: Any, made: Reconstruction) -> dict[str, Tensor]:
    """Count the codes just chosen, and set those out of use to states of this batch, in every process alike.

    Returns how many codes that were (`dead`), and the perplexity of those in use.
    """
    table: Tensor = model.vision.codebook.weight
    states, codes = made.states.flatten(0, -2).float(), made.codes.flatten()
    chosen: Any = reduce(codes.bincount(minlength=len(table)).float(), "sum")
    model.usage.lerp_(chosen * len(table) / chosen.sum(), 1 - MEMORY)
    dead = model.usage < USED
    fresh: Any = broadcast(drawn(states, table[codes], len(table)))
    table[dead] = fresh[dead].to(table.dtype)
    model.usage[dead] = 1.0
    return {"dead": dead.sum(), "perplexity": perplexity(model.usage)}


def drawn(states: Float[Tensor, "N E"], chosen: Float[Tensor, "N E"], count: int) -> Float[Tensor, "count E"]:
    """So many of the states, those far from what was chosen for them more often: by their squared distance."""
    far = (states - chosen).square().sum(-1).double()
    return states[torch.multinomial(far + far.mean().clamp(min=1e-12) * 1e-6, count, replacement=True)]
