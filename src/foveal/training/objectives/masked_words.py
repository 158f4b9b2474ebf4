"""Words that are hidden, found again from the rest of the text and from sight (BERT, 1810.04805)."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("masked",), hidden=("words",))


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one that scores words at single places."""

    head: str = "words"


def masked_words(model: nn.Module, batch: Batch, *, head: str = "words") -> tuple[Tensor, int]:
    """The summed cross-entropy, in nats, of all hidden words (`Batch.labels`), and their number."""
    return score(model(batch, at={head: places(batch)}).heads[head], batch)


def places(batch: Batch) -> Bool[Tensor, "B L"]:
    """Where words are hidden. Raises InputError for a batch that hides none."""
    if batch.labels is None:
        raise InputError("the batch hides no words; give the stage's processor 'masking' with a share of words")
    return batch.labels != IGNORE


def score(told: Float[Tensor, "N V"], batch: Batch) -> tuple[Tensor, int]:
    """The same of what the head says at these places."""
    assert batch.labels is not None
    wanted = batch.labels[places(batch)]
    return F.cross_entropy(exact(told), wanted, reduction="sum"), wanted.numel()
