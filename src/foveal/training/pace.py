"""How far a stage is, by steps or by the clock, and when it ends."""

import math
from dataclasses import dataclass

from foveal.core.errors import InputError
from foveal.training.checkpoint import Progress
from foveal.training.config import Stage


@dataclass(frozen=True, kw_only=True)
class Pace:
    """A stage's length: `steps`, or `seconds` where those are not known."""

    steps: int | None
    seconds: float
    warmup: float  # a fraction of the stage
    floor: float

    @classmethod
    def of(cls, stage: Stage, *, visits: int, a_step: int) -> "Pace":
        """The pace of a stage whose epoch has so many visits, of which a step takes so many."""
        steps = stage.steps
        if stage.epochs is not None:
            steps = max(1, math.ceil(stage.epochs * visits / a_step))
        if stage.warmup >= 1 and steps is None:
            raise InputError(
                f"stage {stage.name!r} ends by the clock but warms up for {stage.warmup:g} steps; "
                "give a fraction below 1"
            )
        warmup = stage.warmup if stage.warmup < 1 or steps is None else stage.warmup / steps
        return cls(steps=steps, seconds=60 * (stage.minutes or 0.0), warmup=min(1.0, warmup), floor=stage.floor)

    def done(self, progress: Progress) -> float:
        """The fraction of the stage that lies behind; it ends at 1."""
        if self.steps is not None:
            return progress.stage_step / self.steps
        return (progress.seconds - progress.stage_began) / self.seconds

    def left(self, progress: Progress) -> float:
        """Seconds until the end, going by the seconds so far."""
        done, spent = self.done(progress), progress.seconds - progress.stage_began
        return max(0.0, spent * (1 - done) / done) if done else 0.0

    def rate(self, progress: Progress) -> float:
        """The learning rate of the next step, as a fraction of its peak.

        A warm-up (linear), then half a cosine (1608.03983) down to the floor.
        """
        done = self.done(progress)
        if done < self.warmup:
            step = 1 / self.steps if self.steps is not None else 0.0  # the first step should move already
            return min(1.0, (done + step) / self.warmup)
        rest = min(1.0, (done - self.warmup) / max(1e-12, 1.0 - self.warmup))
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * rest))
