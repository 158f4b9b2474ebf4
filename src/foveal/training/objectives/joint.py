"""Answers, cells and matches together, on one pass through the model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from foveal.core.types import Batch
from foveal.training.objectives import cells as by_cell
from foveal.training.objectives import match as by_match
from foveal.training.objectives import next_token
from foveal.training.settings import check_weights
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("causal", "seq2seq"), answers=True, cells=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`cells` is the weight of one cell beside one answer token, `match` that of one word of a question."""

    cells: float = 0.1
    match: float = 0.0

    def __post_init__(self) -> None:
        check_weights("joint", cells=self.cells, match=self.match)


def wants(settings: Config) -> Wants:
    """What it wants with these settings."""
    return replace(WANTS, layers=settings.match > 0)


def joint(
    model: nn.Module, batch: Batch, *, cells: float = 0.1, match: float = 0.0
) -> tuple[Tensor, float, Mapping[str, tuple[Tensor, int]]]:
    """The weighted mean of the losses: (answers + cells * cell losses + ...) / (tokens + cells * labelled cells + ...).

    Sums and counts are additive, so accumulation stays exact; a batch without images has answers alone.
    """
    output = model(batch, keep="labelled", keep_hidden=match > 0)
    parts = {"answers": next_token.score(output, batch)}
    weights = {"answers": 1.0, "cells": cells, "match": match}
    if output.visual is not None and cells:
        parts["cells"] = by_cell.score(model, output.visual, batch)
    if output.visual is not None and match:
        parts["match"] = by_match.score(model, output, batch)
    loss = sum(weights[name] * part for name, (part, _) in parts.items())
    return loss, float(sum(weights[name] * count for name, (_, count) in parts.items())), parts  # type: ignore[return-value]
