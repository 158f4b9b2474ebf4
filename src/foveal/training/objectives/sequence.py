"""What should follow each token of a spelled sequence, weighted: cross-entropy in nats (Pix2Seq, 2109.10852)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.preprocess.tasks import TASKS
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("seq2seq",))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set: the processor's augmentation weighs the tokens, and its tasks weigh each other."""


def sequence(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Mapping[str, tuple[Tensor, Tensor]]]:
    """The weighted sum of all tokens' losses, the sum of the weights, and both of each task where there are several."""
    follow, weighs = (batch.targets.get(name) for name in ("follow", "weighs"))
    if follow is None or weighs is None:
        raise InputError("the batch spells no objects; give the processor the settings of a 'detection'")
    logits = exact(model(batch).logits)
    losses = F.cross_entropy(logits.flatten(0, 1), follow.flatten(), reduction="none")
    weights = weighs.to(losses)
    losses = losses.view_as(weights) * weights
    parts, task = {}, batch.targets.get("task")
    for number in [] if task is None else task.unique().tolist():
        parts[TASKS[number]] = losses[task == number].sum(), weights[task == number].sum()
    return losses.sum(), weights.sum(), parts
