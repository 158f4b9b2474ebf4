"""Where the text of a model with gated blocks looks, and how far its gates are open (Flamingo, 2204.14198)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.fusion.gated_cross_attention import GatedBlock, GatedCrossAttention
from foveal.layers.gates import Gate
from foveal.models.causal import Causal
from foveal.models.looks import recorded
from foveal.models.parts import flow


@dataclass(frozen=True, kw_only=True)
class Glances:
    """Shares by block (the layer that it stands before) and head; of a token that finds nothing, all are 0.

    `tokens` says which visual token each share is of; those beside a row's own are 0 for all. `gates` are how far the
    gates of a block's look and feed-forward are open, from -1 to 1; one that has none is not among them.
    """

    shares: Mapping[int, Float[Tensor, "B H L M"]]
    tokens: Int[Tensor, "B M"]
    gates: Mapping[int, tuple[Tensor, ...]]


@torch.no_grad()
def glances(model: Causal, batch: Batch) -> Glances:
    """All maps of one run over the batch; they are made here alone, so that a run without them pays nothing.

    Raises InputError for a model of another fusion, and for a batch without images.
    """
    fusion = model.fusion
    if not isinstance(fusion, GatedCrossAttention):
        raise InputError(f"no blocks that look in {type(fusion).__name__}; ask a model of 'gated_cross_attention'")
    visual = model.see(batch)
    if visual is None:
        raise InputError("nothing to look at in a batch without images; give it some")
    stream = model.language.open(batch)
    view = fusion.view(stream, visual)
    blocks = {layer: block for layer, block in fusion.blocks.items() if isinstance(block, GatedBlock)}
    with recorded({layer: [block.attention] for layer, block in blocks.items()}) as kept:
        flow(fusion.at_input(stream, visual), language=model.language, fusion=fusion)
    finds = fusion.opened(view.seen, view.there)[0].any(-1, keepdim=True)
    return Glances(
        shares={int(layer): maps[0] * finds for layer, maps in kept.items()},
        tokens=view.index,
        gates={int(layer): _gates(block) for layer, block in blocks.items()},
    )


def _gates(block: GatedBlock) -> tuple[Tensor, ...]:
    return tuple(gate.opening for gate in (block.attention_gate, block.feed_gate) if isinstance(gate, Gate))
