"""Whether a text belongs to its images: half of the rows say what is said of others (VisualBERT, 1908.03557)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

Parts = Mapping[str, tuple[Tensor, int]]
WANTS = Wants(assemblies=("masked", "two_tower"), hidden=("foreign",), blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one with the classes 0 (belongs) and 1 (foreign)."""

    head: str = "matching"


def matching(model: nn.Module, batch: Batch, *, head: str = "matching") -> tuple[Tensor, int, Parts]:
    """The summed cross-entropy of all rows, their number, and how many are told right.

    Raises InputError for a batch whose texts all belong.
    """
    return score(model(batch, at={head: None}).heads[head], batch)


def score(told: Float[Tensor, "B 2"], batch: Batch) -> tuple[Tensor, int, Parts]:
    """The same of what the head says of each row."""
    wanted = batch.targets.get("matching")
    if wanted is None:
        raise InputError("the batch has no foreign texts; give the stage's processor 'masking' with a share of them")
    return compared(told, wanted)


def compared(told: Float[Tensor, "N 2"], wanted: Int[Tensor, " N"]) -> tuple[Tensor, int, Parts]:
    """The same of rows that are `wanted` to belong or to be foreign."""
    loss = F.cross_entropy(exact(told), wanted, reduction="sum")
    right = (told.argmax(-1) == wanted).sum()
    return loss, wanted.numel(), {"matching": (loss, wanted.numel()), "accuracy_matching": (right, wanted.numel())}
