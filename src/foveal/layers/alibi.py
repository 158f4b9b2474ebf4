"""ALiBi: the farther a token, the less it counts, by a slope of each head (2108.12409)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def slopes(heads: int, steepest: float, *, device: torch.device | str | None = None) -> Float[Tensor, " H"]:
    """How much each head takes off a score for a step of distance: from nearly 1 down to 2 to the power -`steepest`.

    Of the next power of two of heads, every second one comes first and the others after them, as many as there are.
    """
    count = 1 << (heads - 1).bit_length()
    every = 2.0 ** -(torch.arange(1, count + 1, device=device).float() * (steepest / count))
    return every if count == heads else torch.cat([every[1::2], every[::2]])[:heads]


def sloped(
    mask: Bool[Tensor, "B 1 L K"], positions: Int[Tensor, "B L"], falls: Float[Tensor, " H"]
) -> Float[Tensor, "B H L K"]:
    """What is added to the scores: minus infinity where the mask hides a key, else its distance by each head's slope.

    Tokens that a cache holds stand before the new ones, one place each.
    """
    length, keys = mask.shape[-2:]
    if keys == length:
        away = positions[:, :, None] - positions[:, None, :]
    else:
        place = torch.arange(keys, device=mask.device)
        away = (place[-length:, None] - place)[None]
    return (-falls[:, None, None] * away[:, None]).masked_fill(~mask, -torch.inf)
