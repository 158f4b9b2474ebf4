"""Parts of a model that change over a run, and parts that have more to tell than a loss.

The first have `at_progress(done)`, which is called before every step with how much of the run lies behind, 0 to 1. The
second have `told()`, numbers by name for the log. What learns as it stands counts where it learns; a part that thins
visual tokens out has `at_sparsity(done, curve)`, and counts wherever it stands.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from foveal.core.errors import InputError
from foveal.training.config import Stage, TrainingConfig


def advance(model: nn.Module, done: float) -> None:
    """Tell every part that changes over a run, and learns in this stage, how much of it lies behind."""
    for part in model.modules():
        at_progress: Callable[[float], None] | None = getattr(part, "at_progress", None)
        if part.training and at_progress is not None:
            at_progress(done)


def heard(model: nn.Module) -> dict[str, float]:
    """What parts that learn, or thin out, have to tell; a name that is told already gets the part's place behind it."""
    said: dict[str, float] = {}
    for place, part in model.named_modules():
        tell: Callable[[], Mapping[str, float]] | None = getattr(part, "told", None)
        if tell is not None and (part.training or hasattr(part, "at_sparsity")):
            for name, number in tell().items():
                said[f"{name}_{place.replace('.', '_')}" if name in said else name] = number
    return said


def behind(stage: int, done: float, *, stages: int) -> float:
    """How much of a run lies behind: every stage is an equal part of it, however long it takes."""
    return min(1.0, (stage + done) / stages)


def course(config: TrainingConfig, stage: Stage) -> tuple[tuple[float, str], ...]:
    """How much of the way to the plan lies behind, and along which curve it goes, where a stage begins and where it
    ends; nothing where the plan always holds."""
    sparser = stage.sparser or config.sparser
    if sparser is None:
        return ()
    number, stages = [one.name for one in config.stages].index(stage.name), len(config.stages)
    ends = (0.0, 1.0) if stage.sparser else (behind(number, done, stages=stages) for done in (0.0, 1.0))
    return tuple((sparser.way(end), sparser.curve) for end in ends)


@contextmanager
def thinning(model: nn.Module, config: TrainingConfig, stage: Stage) -> Iterator[Callable[[float, float], None]]:
    """What is to be told how much of the run and of the stage lies behind, so that tokens thin out by it.

    At the end the plan holds again. Raises InputError where it is wanted and the model thins nothing out.
    """
    sparser = stage.sparser or config.sparser
    parts = [part for part in model.modules() if hasattr(part, "at_sparsity")] if sparser is not None else []
    if sparser is not None and not parts:
        raise InputError(
            f"stage {stage.name!r} goes from all visual tokens to fewer, and every layer of this model sees all; take "
            "the fusion dense_sparse, or leave 'sparser' out"
        )

    def tell(run: float, own: float) -> None:
        for part in parts:
            assert sparser is not None
            part.at_sparsity(sparser.way(own if stage.sparser is not None else run), sparser.curve)  # type: ignore[operator]

    try:
        yield tell
    finally:
        for part in parts:
            part.at_sparsity(None)  # type: ignore[operator]
