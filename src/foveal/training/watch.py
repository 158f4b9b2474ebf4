"""Who looks on while a run trains, and when."""

from collections.abc import Callable
from dataclasses import dataclass

from foveal.training.checkpoint import Progress
from foveal.training.config import Stage


@dataclass(frozen=True, kw_only=True)
class Watch:
    """`look(stage, share, progress)` is called for each of `shares`, in rising order, when so much of the last stage is
    done.

    A checkpoint stands by then, and a run that goes on from a later one is looked at once more for what lies behind.
    Neither the stage's time nor its chance are touched by a look, which may also end the run by an error.
    """

    shares: tuple[float, ...]
    look: Callable[[Stage, float, Progress], None]
