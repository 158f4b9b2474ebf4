"""The next token, where a label wants one: cross-entropy in nats (GPT)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.labels import next_labels
from foveal.core.types import IGNORE, Batch, Output
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("causal", "seq2seq", "two_tower"), answers=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set: the labels say which tokens count."""


def next_token(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """The summed loss of all labelled tokens and their number; logits exist for these alone."""
    return score(told(model, batch), batch)


def told(model: nn.Module, batch: Batch) -> Output:
    """What the model says where a token is labelled."""
    return model(batch, keep="labelled")


def score(output: Output, batch: Batch) -> tuple[Tensor, int]:
    """The same of an output that is already there, `logits[N V]` of the N labelled tokens in order."""
    wanted = output.labels
    if wanted is None:
        wanted = next_labels(batch)
        wanted = wanted[wanted != IGNORE]
    return F.cross_entropy(exact(output.logits), wanted, reduction="sum"), wanted.numel()


def exact(logits: Tensor) -> Tensor:
    """At least float32: a sum over a vocabulary needs it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
