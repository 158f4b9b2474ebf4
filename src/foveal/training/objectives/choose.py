"""The right answer out of a fixed vocabulary: cross-entropy in nats (VQA as classification, 1505.00468)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.training.objectives.next_token import exact


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one that scores the answers."""

    head: str = "answer"


def choose(model: nn.Module, batch: Batch, *, head: str = "answer") -> tuple[Tensor, int]:
    """The summed loss of all rows whose answer is in the vocabulary (`Batch.targets["answer"]`), and their number."""
    wanted = batch.targets.get("answer")
    if wanted is None:
        raise InputError("the batch names no answers; give the processor an answer vocabulary ('answers')")
    told = exact(model(batch, at={head: None}).heads[head])
    loss = F.cross_entropy(told, wanted, reduction="sum", ignore_index=IGNORE)
    return loss, int((wanted != IGNORE).sum())
