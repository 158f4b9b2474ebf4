"""The right one of a question's choices, each read with it in a row of its own (VCR, 1811.10830): softmax over rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.labels import by_question
from foveal.core.types import Batch
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

Parts = Mapping[str, tuple[Tensor, int]]
WANTS = Wants(assemblies=("masked",))


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one that gives a row its score."""

    head: str = "choice"


def pick(model: nn.Module, batch: Batch, *, head: str = "choice") -> tuple[Tensor, int, Parts]:
    """The summed cross-entropy, in nats, of all questions, their number, and how many are answered right.

    Raises InputError for a batch that names no right choice.
    """
    wanted = batch.targets.get("choice")
    if wanted is None:
        raise InputError("the batch names no right choice; give the processor a number of them ('choices')")
    told = by_question(exact(model(batch, at={head: None}).heads[head]), batch)
    loss = F.cross_entropy(told, wanted, reduction="sum")
    right = (told.argmax(-1) == wanted).sum()
    return loss, wanted.numel(), {"accuracy_choice": (right, wanted.numel())}
