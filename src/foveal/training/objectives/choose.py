"""The right answer out of a fixed vocabulary: cross-entropy in nats (VQA as classification, 1505.00468)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Output
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("masked",), answers=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one that scores the answers."""

    head: str = "answer"


def choose(model: nn.Module, batch: Batch, *, head: str = "answer") -> tuple[Tensor, int]:
    """The summed loss of all rows whose answer is in the vocabulary (`Batch.targets["answer"]`), and their number."""
    return score(told(model, batch, head=head), batch)


def told(model: nn.Module, batch: Batch, *, head: str = "answer") -> Output:
    """What the head says of each row, and nothing else."""
    return model(batch, at={head: None})


def score(output: Output, batch: Batch) -> tuple[Tensor, int]:
    """The same of an output that is already there, whose `logits` are those of the answers."""
    wanted = batch.targets.get("answer")
    if wanted is None:
        raise InputError("the batch names no answers; give the processor an answer vocabulary ('answers')")
    loss = F.cross_entropy(exact(output.logits), wanted, reduction="sum", ignore_index=IGNORE)
    return loss, int((wanted != IGNORE).sum())
