"""Which token should predict what, and which scores compete: one rule for models and objectives."""

from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch


def next_labels(batch: Batch) -> Int[Tensor, "B M"]:
    """What the token at each place but the last should predict (M = L - 1), IGNORE where nothing."""
    if batch.labels is None:
        raise InputError("the batch has no labels; make it with a processor's training method")
    return batch.labels[:, 1:]


def by_question(told: Float[Tensor, "B K"], batch: Batch) -> Float[Tensor, "Q C"]:
    """The scores of a batch's rows, those of the choices of one question side by side.

    Raises InputError for a batch without choices, and for a head that tells more of a row than one score.
    """
    if not batch.choices:
        raise InputError("the batch has no choices to pick from; give the processor a number of them ('choices')")
    if told.shape[1] != 1:
        raise InputError(f"the head tells {told.shape[1]} scores of a choice, and one is wanted; give it labels: 1")
    return told.view(-1, batch.choices)
