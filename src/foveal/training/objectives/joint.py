"""Answers and cells together, on one pass through the model."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from foveal.core.types import Batch
from foveal.training.objectives import cells as by_cell
from foveal.training.objectives import next_token


@dataclass(frozen=True, kw_only=True)
class Config:
    """`cells` is the weight of one cell beside one answer token."""

    cells: float = 0.1


def joint(
    model: nn.Module, batch: Batch, *, cells: float = 0.1
) -> tuple[Tensor, float, Mapping[str, tuple[Tensor, int]]]:
    """The weighted mean of both losses: (answers + cells * cell losses) / (tokens + cells * labelled cells).

    Sum and count are both additive, so accumulation stays exact; a batch without images has answers alone.
    """
    output = model(batch, keep="labelled")
    answers, tokens = next_token.score(output, batch)
    parts = {"answers": (answers, tokens)}
    if output.visual is None:
        return answers, float(tokens), parts
    named, count = by_cell.score(model, output.visual, batch)
    parts["cells"] = (named, count)
    return answers + cells * named, tokens + cells * count, parts
