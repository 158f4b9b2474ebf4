"""Which token should predict what: one rule for models and objectives."""

from jaxtyping import Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch


def next_labels(batch: Batch) -> Int[Tensor, "B M"]:
    """What the token at each place but the last should predict (M = L - 1), IGNORE where nothing."""
    if batch.labels is None:
        raise InputError("the batch has no labels; make it with a processor's training method")
    return batch.labels[:, 1:]
