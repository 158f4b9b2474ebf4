"""What stands in each cell of an image: its visual tokens scored against the language model's word embeddings.

The truth comes from the boxes of the data (`Batch.targets["cells"]`, a word or IGNORE for each visual token). It ties
sight to words before any answer is right; comparisons leave it off unless every system has it.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, VisualTokens
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("causal", "seq2seq", "two_tower"), boxes=True, cells=True, blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set."""


def cells(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """The summed cross-entropy of all labelled cells and their number; the language layers do not run."""
    return score(model, model.see(batch), batch)  # type: ignore[operator]


def score(model: nn.Module, visual: VisualTokens | None, batch: Batch) -> tuple[Tensor, int]:
    """The same of visual tokens `features[S D]` that are already there."""
    wanted = batch.targets.get("cells")
    if wanted is None or visual is None:
        raise InputError("the batch names no cells; the cells objective wants images with boxes in the data")
    if wanted.shape[0] != visual.features.shape[0]:
        raise InputError(
            f"{wanted.shape[0]} cell labels but {visual.features.shape[0]} visual tokens; "
            "the cells objective wants a connector that keeps the grid of the labels"
        )
    labelled = wanted != IGNORE
    wanted = wanted[labelled]
    logits = F.linear(visual.features[labelled], model.language.embedding.weight)  # type: ignore[union-attr]
    return F.cross_entropy(exact(logits), wanted, reduction="sum"), wanted.numel()
