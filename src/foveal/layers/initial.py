"""Fresh weights for training from scratch."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.attention import Attention


def small_normal(module: nn.Module, *, deviation: float = 0.02) -> None:
    """Draw a linear map's or embedding's weights from a normal distribution and zero its bias; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def scale_residual(module: nn.Module, *, depth: int) -> None:
    """Shrink the maps that write to the residual stream (`out`, `down`), so that it keeps its size (GPT-2)."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and name.rpartition(".")[2] in ("out", "down"):
            child.weight.div_(math.sqrt(2 * depth))


@torch.no_grad()
def liken(module: nn.Module, *, deviation: float) -> None:
    """Let keys begin as copies of their queries, so that like attends to like from the first step (2305.09828)."""
    for child in module.modules():
        if isinstance(child, Attention):
            nn.init.normal_(child.query.weight, std=deviation)
            heads = child.query.weight.unflatten(0, (child.kv_heads, -1, child.head_width))
            child.key.weight.copy_(heads[:, 0].flatten(0, 1))


@torch.no_grad()
def in_order(table: Float[Tensor, "N D"], *, deviation: float = 0.02) -> None:
    """Let the rows of an embedding begin as waves over their number, so that neighbours begin alike (2006.10739).

    Frequencies rise evenly in their logarithm from half a wave to one in two rows; phases are drawn.
    """
    if table.is_meta:
        return
    count, width = table.shape
    half = (width + 1) // 2
    rates = torch.pi * (max(count, 2) / 2) ** torch.linspace(0, 1, half, device=table.device)
    phases = 2 * torch.pi * torch.rand(half, device=table.device)
    angles = torch.linspace(0, 1, count, device=table.device)[:, None] * rates + phases
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
    table.copy_(waves * (deviation * math.sqrt(2)))
