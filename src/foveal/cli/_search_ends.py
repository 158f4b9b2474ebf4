"""What Ray Tune tells of trials that end before their time. Imported where Ray is installed."""

from collections.abc import Mapping
from typing import Any

from ray.tune import Callback

from foveal.cli import _trial
from foveal.cli._trial import BROKEN, STOPPED, Task
from foveal.cli._tuning import Trial


class Ends(Callback):
    """Keeps in a trial's record that it was stopped, or that its process died."""

    def __init__(self, trials: Mapping[int, Trial], task: Task) -> None:
        self.trials, self.task = trials, task

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has come to its end, or to that which the scheduler set it."""
        self._ended(trial, state=STOPPED)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process has gone: what a training raises is told by the trial itself."""
        self._ended(trial, state=BROKEN, error="its process died; it may have run out of memory")

    def _ended(self, trial: Any, **told: str) -> None:
        own = self.trials[trial.config["number"]]
        record = self.task.record(own)
        if _trial.state(record) in ("", _trial.BEGUN):
            record.put(**own.marks, training=told)
