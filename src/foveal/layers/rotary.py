"""Rotary positions (RoPE, 2104.09864) in the half-split layout of Llama and Qwen."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.layers.scratch import followed


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How fast each pair of a head turns with the position.

    `linear` divides every frequency by `factor` (2306.15595). `llama3` divides those that turn fewer than `low` times
    in the `original` context by it, leaves those that turn more than `high` times, and blends between (2407.21783).
    Layers of the numbers `still` turn nothing (SmolLM3; 2501.18795), and of each head its first `share` alone turns
    (GPT-NeoX, 2204.06745). With `sections` positions have several axes, such
    as time, row and column, of which each turns so many pairs: one axis after the other (M-RoPE, 2409.12191), or
    `interleaved` in turns, where the first axis takes what the others leave (Qwen3-VL, 2511.21631).
    """

    base: float = 10000.0
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    still: tuple[int, ...] = later(())
    sections: tuple[int, ...] = later(())
    interleaved: bool = later(False)
    share: float = later(1.0)


STANDARD = Rope()


def inverse_frequencies(width: int, rope: Rope, *, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
    """One frequency for each pair of a head that turns, in radians a position, always float32."""
    width = int(width * rope.share)
    steps = torch.arange(0, width, 2, dtype=torch.int64, device=device).float() / width
    frequencies = 1.0 / rope.base**steps
    if rope.scaling == "none":
        return frequencies
    slow = frequencies / rope.factor
    if rope.scaling == "linear":
        return slow
    turns = rope.original * frequencies / (2 * math.pi)
    share = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
    return (1 - share) * slow + share * frequencies


def axes(pairs: int, rope: Rope, *, device: torch.device | str | None = None) -> Int[Tensor, " d"]:
    """The axis by whose position each pair of a head turns.

    Raises InputError for sections one after the other that are not all pairs.
    """
    if rope.interleaved:
        turns = torch.zeros(pairs, dtype=torch.long, device=device)
        for axis, section in enumerate(rope.sections[1:], start=1):
            turns[axis : section * len(rope.sections) : len(rope.sections)] = axis
        return turns
    if sum(rope.sections) != pairs:
        raise InputError(f"rope.sections {list(rope.sections)} for heads of {pairs} pairs; give as many in all")
    sizes = torch.tensor(rope.sections, device=device)
    return torch.arange(len(sizes), device=device).repeat_interleave(sizes, output_size=pairs)


def tables(
    positions: Int[Tensor, "B L *A"],
    frequencies: Float[Tensor, " d"],
    *,
    dtype: torch.dtype,
    turns: Int[Tensor, " d"] | None = None,
) -> tuple[Float[Tensor, "B 1 L d2"], Float[Tensor, "B 1 L d2"]]:
    """Cosines and sines of every position, each frequency twice; the first half of the sines is negative.

    Of positions on several axes each frequency takes that of the axis that `turns` says. Raises InputError where
    it says none.
    """
    if positions.ndim == 3 and turns is None:
        raise InputError(
            f"positions on {positions.shape[2]} axes for a language model of one; give it rope.sections, or leave "
            "processor.positions out"
        )
    placed = positions[..., None] if positions.ndim == 2 else positions[..., turns]
    angles = placed[:, None].float() * frequencies.float()
    cosines, sines = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)


def rotate(
    heads: Float[Tensor, "B H L d"], cosines: Float[Tensor, "B 1 L r"], sines: Float[Tensor, "B 1 L r"]
) -> Float[Tensor, "B H L d"]:
    """Turn each pair (i, i + r / 2) of the first r numbers of a head by its angle; the rest stays."""
    if (turning := cosines.shape[-1]) < heads.shape[-1]:
        return torch.cat([rotate(heads[..., :turning], cosines, sines), heads[..., turning:]], dim=-1)
    half = turning // 2
    if heads.shape[-2] == 1 or heads.requires_grad or followed():
        return heads * cosines + heads.roll(half, dims=-1) * sines
    # in one new place, where heads lie together as attention reads them fastest, without a copy of what is rolled
    heads = heads.to(torch.promote_types(heads.dtype, cosines.dtype))  # once, and not in each of three steps
    turned = torch.mul(heads, cosines, out=torch.empty(heads.shape, dtype=heads.dtype, device=heads.device))
    turned[..., :half].addcmul_(heads[..., half:], sines[..., :half])
    turned[..., half:].addcmul_(heads[..., :half], sines[..., half:])
    return turned
