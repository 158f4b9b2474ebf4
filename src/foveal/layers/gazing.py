"""Learned queries that are led: what is added to the scores by which they look at the tokens of their image."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.types import Gaze, Layout
from foveal.layers.images import by_image


def led(
    gaze: Gaze | None, layout: Layout, shown: Bool[Tensor, "I 1 1 M"] | None
) -> Bool[Tensor, "I 1 1 M"] | Float[Tensor, "I 1 Q M"] | None:
    """The mask of what is `shown` for queries that look so; without a gaze it is the mask itself."""
    if gaze is None:
        return shown
    bias = by_image(gaze.bias[:, None], layout)[0].mT[:, None]
    mine = torch.tensor(gaze.led, device=bias.device)[:, None]
    added = torch.where(mine, bias, 0.0)
    return added if shown is None else added.masked_fill(~shown, float("-inf"))
