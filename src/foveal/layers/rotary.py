"""Rotary positions (RoPE, 2104.09864) in the half-split layout of Llama and Qwen."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def inverse_frequencies(width: int, *, base: float) -> Float[Tensor, " d"]:
    """One frequency for each pair of the head width."""
    return 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)


def tables(
    positions: Int[Tensor, "B L"], frequencies: Float[Tensor, " d"], *, dtype: torch.dtype
) -> tuple[Float[Tensor, "B 1 L d2"], Float[Tensor, "B 1 L d2"]]:
    """Cosines and sines of every position, each frequency twice."""
    angles = positions[:, None, :, None].float() * frequencies.float()
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(
    heads: Float[Tensor, "B H L d"], cosines: Float[Tensor, "B 1 L d"], sines: Float[Tensor, "B 1 L d"]
) -> Float[Tensor, "B H L d"]:
    """Turn each pair (i, i + d / 2) of a head by its angle."""
    left, right = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-right, left], dim=-1) * sines
