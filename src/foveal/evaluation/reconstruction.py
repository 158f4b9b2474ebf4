"""How near pictures come back from an image tokenizer, and how much of its codebook they take."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.usage import perplexity

LEAST = 1e-10  # mean squared error: 100 dB are as good as equal


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Codes that pictures took: of how many, how many were `used`, and how many equally frequent ones tell as much."""

    codes: int
    used: int
    perplexity: float


def psnr(made: Float[Tensor, "I C H W"], wanted: Float[Tensor, "I C H W"]) -> Float[Tensor, " I"]:
    """Peak signal to noise of each picture in dB, for values from 0 to 1; what a picture cannot hold is cut first."""
    error = made.double().clamp(0, 1) - wanted.double()
    return -10 * error.square().mean((1, 2, 3)).clamp(min=LEAST).log10().float()


def usage(codes: Int[Tensor, " N"], count: int) -> Usage:
    """What the chosen codes say of a codebook of `count` entries."""
    counts = torch.bincount(codes, minlength=count)
    return Usage(codes=count, used=int((counts > 0).sum()), perplexity=float(perplexity(counts)))
