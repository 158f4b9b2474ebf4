"""What should follow each token of a spelled sequence, weighted: cross-entropy in nats (Pix2Seq, 2109.10852)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.training.objectives.next_token import exact


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set: the processor's augmentation weighs the tokens."""


def sequence(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The weighted sum of all tokens' losses, and the sum of the weights."""
    follow, weighs = (batch.targets.get(name) for name in ("follow", "weighs"))
    if follow is None or weighs is None:
        raise InputError("the batch spells no objects; give the processor the settings of a 'detection'")
    logits = exact(model(batch).logits)
    losses = F.cross_entropy(logits.flatten(0, 1), follow.flatten(), reduction="none")
    weights = weighs.flatten().to(losses)
    return (losses * weights).sum(), weights.sum()
