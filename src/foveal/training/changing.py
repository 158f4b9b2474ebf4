"""Parts of a model that change over a run, and parts that have more to tell than a loss.

The first have `at_progress(done)`, which is called before every step with how much of the run lies behind, 0 to 1. The
second have `told()`, numbers by name for the log. Both count where they learn.
"""

from collections.abc import Callable, Mapping

from torch import nn


def advance(model: nn.Module, done: float) -> None:
    """Tell every part that changes over a run, and learns in this stage, how much of it lies behind."""
    for part in model.modules():
        at_progress: Callable[[float], None] | None = getattr(part, "at_progress", None)
        if part.training and at_progress is not None:
            at_progress(done)


def heard(model: nn.Module) -> dict[str, float]:
    """What the parts that learn have to tell; a name that one has told already gets the part's own place behind it."""
    said: dict[str, float] = {}
    for place, part in model.named_modules():
        tell: Callable[[], Mapping[str, float]] | None = getattr(part, "told", None)
        if part.training and tell is not None:
            for name, number in tell().items():
                said[f"{name}_{place.replace('.', '_')}" if name in said else name] = number
    return said


def behind(stage: int, done: float, *, stages: int) -> float:
    """How much of a run lies behind: every stage is an equal part of it, however long it takes."""
    return min(1.0, (stage + done) / stages)
