"""What the next word takes of each visual token, whatever the fusion by which it looks."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.interfaces import in_line
from foveal.core.types import Batch
from foveal.fusion.gated_cross_attention import GatedCrossAttention
from foveal.models import seats
from foveal.models.budget import allocator_of
from foveal.models.causal import Causal
from foveal.models.glances import glances
from foveal.models.looks import looks
from foveal.models.masked import Masked
from foveal.models.parts import flow


@torch.no_grad()
def attended(model: Causal | Masked, batch: Batch) -> Float[Tensor, " S"]:
    """The shares that the last word of a batch of one row takes of its S visual tokens: the mean of layers and heads.

    They are what is left to sight where words stand in the same attention: all of them sum to 1 or less. Raises
    InputError for a batch of more rows or without images, and for a model that does not tell.
    """
    if len(batch.input_ids) != 1:
        raise InputError(f"a batch of {len(batch.input_ids)} rows; give one question at a time")
    visual = model.see(batch)
    if visual is None:
        raise InputError("nothing to look at in a batch without images; give it some")
    fusion: Any = model.fusion
    if isinstance(model, Causal) and isinstance(fusion, GatedCrossAttention):
        told = glances(model, batch)
        shares = _mean(part[:, :, -1].mean(1) for part in told.shares.values())[0]
        return shares.new_zeros(visual.layout.total).index_add(0, told.tokens[0], shares)
    if isinstance(model, Masked) and hasattr(fusion, "to_sight"):
        last = int((batch.valid[0] & (batch.image_slot[0] < 0)).nonzero()[-1])
        return _mean(part[0, :, last].mean(0) for part in looks(model, batch).to_sight)[-visual.layout.total :]
    return _in_line(model, batch)


def _in_line(model: Causal | Masked, batch: Batch) -> Float[Tensor, " S"]:
    """The same where visual tokens stand among the words of a decoder."""
    layers: Any = list(model.language.layers)
    spender = allocator_of(model)
    if not in_line(model.fusion) or seats.acts_within(spender) or not hasattr(layers[0], "shares"):
        raise InputError(
            f"no map of what {type(model.language).__name__} with {type(model.fusion).__name__} takes of each visual "
            "token; ask a decoder before which all of them stand in line"
        )
    last = torch.full((1, 1), batch.input_ids.shape[1] - 1, device=batch.input_ids.device)
    kept: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda part, given: kept.append(part.shares(given[0], last)))
        for layer in layers
    ]
    try:
        visual = model.see(batch)
        placed = model.worded(model.placed(batch, visual), visual)
        stream = model.fusion.at_input(model.language.open(placed), visual)
        flow(stream, language=model.language, fusion=model.fusion)
    finally:
        for hook in hooks:
            hook.remove()
    slots = batch.image_slot[0]
    places = (slots >= 0).nonzero()[:, 0]
    shares = _mean(part[0, 0] for part in kept)
    return shares.new_zeros(len(places)).index_put((slots[places].long(),), shares[places])


def _mean(shares: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.float() for part in shares]).mean(0)
