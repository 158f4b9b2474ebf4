"""Answers out of fewer visual tokens than there are, a budget drawn for every batch: one model for all budgets.

Where a teacher is heard, the same model with all its tokens says how sure it would be, and what it says is not moved
towards what fewer tokens say (2006.05525, section 2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.training.objectives import choose, next_token
from foveal.training.settings import check_weights, check_whole
from foveal.training.wants import Wants

Of = Literal["next_token", "choose"]
WANTS = Wants(assemblies=("causal", "seq2seq", "masked"), spends=True, layers=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Budgets from `least` to `most` tokens an image, evenly drawn on a scale of ratios, or all tokens for a share
    `whole` of the batches; `teacher` weighs the divergence (in nats) from what the model says with all tokens. What is
    learned is the next token `of` an answer, or to `choose` one. Of images in tiles those are read that hold a share
    drawn from `cover` to 1, and who chooses them learns it (None: its own share).
    """

    least: int = 8
    most: int = 128
    whole: float = 0.1
    teacher: float = 0.0
    of: Of = "next_token"
    cover: float | None = later(None)

    def __post_init__(self) -> None:
        check_whole("budgets", 1, least=self.least, most=self.most)
        if self.least > self.most:
            raise InputError(f"budgets.least is {self.least} and budgets.most {self.most}; give a least up to the most")
        if not 0 <= self.whole <= 1:
            raise InputError(f"budgets.whole is {self.whole:g}; give a share of the batches from 0 to 1")
        if self.cover is not None and not 0 < self.cover <= 1:
            raise InputError(f"budgets.cover is {self.cover:g}; give a share above 0, or 1 for all tiles")
        check_weights("budgets", teacher=self.teacher)


def budgets(
    model: Any,
    batch: Batch,
    *,
    least: int = 8,
    most: int = 128,
    whole: float = 0.1,
    teacher: float = 0.0,
    of: Of = "next_token",
    cover: float | None = None,
) -> tuple[Tensor, int, Mapping[str, tuple[Tensor, int]]]:
    """The summed loss of all that is labelled, and its number; wants a model that has an allocator."""
    kind = next_token if of == "next_token" else choose
    model_batch = model.looked(batch)
    tiled = model.tiled(model_batch)
    seen = replace(model_batch, seen=model.mosaic(tiled))
    draw, share = torch.rand(2).tolist()
    if tiled is None or share < whole:
        loss, count = kind.score(kind.told(model, seen), batch)
        return loss, count, {"answers": (loss, count)}
    budget = round(least * math.exp(draw * math.log(most / least)))
    share = None if cover is None else cover + (1 - cover) * float(torch.rand(()))
    said = kind.told(model, model.spent(model_batch, tiled, budget, cover=share))
    loss, count = kind.score(said, batch)
    parts = {"answers": (loss, count)}
    if teacher:
        with torch.no_grad():
            sure = next_token.exact(kind.told(model, seen).logits).log_softmax(-1)
        apart = F.kl_div(next_token.exact(said.logits).log_softmax(-1), sure, reduction="sum", log_target=True)
        parts["teacher"] = (apart, count)
        loss = loss + teacher * apart
    return loss, count, parts
