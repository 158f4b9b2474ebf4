"""One trial of a search: trained as `foveal train` does it, and scored as `foveal eval` does, at shares of its last
stage and at its end."""

import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foveal.cli._held_out import Held
from foveal.cli._tuning import Trial
from foveal.core.errors import InputError
from foveal.core.parsing import from_json
from foveal.evaluation.cells import DONE, Record
from foveal.training.checkpoint import Progress

BEGUN, STOPPED = "begun", "stopped"
FAILED, BROKEN = "failed", "broken"  # the second should have gone, and is tried again
Report = Callable[[float, int], None]  # takes a score, and which look it is of


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where trials are kept, and what they are judged by; `home` is what relative paths start from."""

    out: Path
    home: Path
    folder: Path  # of the data that are trained on
    metric: str
    evaluation: Held
    shares: tuple[float, ...]
    threads: int

    def run(self, trial: Trial) -> Path:
        """The run directory of a trial."""
        return self.out / "runs" / trial.name

    def shown(self, place: Path) -> str:
        """A place as it is typed from `home`."""
        return str(place.relative_to(self.home) if place.is_relative_to(self.home) else place)

    def record(self, trial: Trial) -> Record:
        """What is known of a trial."""
        return Record.open(self.out / "trials" / f"{trial.name}.json", key=trial.key)

    def check(self, trials: Sequence[Trial]) -> None:
        """Raise InputError where `out` holds another search, or something else."""
        if self.out.is_file():
            raise InputError(f"{self.out} is a file; give --out a directory")
        kept = self.out / "trials"
        if not kept.is_dir() and self.out.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out} holds something else than a search; give another --out")
        for trial in trials:
            file = kept / f"{trial.name}.json"
            if file.is_file() and not self.record(trial).begun:
                same = from_json(file.read_bytes()).get("asked") == trial.asked
                other = (
                    "was trained and scored on data that have changed since"
                    if same
                    else ("had other settings or was scored otherwise")
                )
                raise InputError(
                    f"{self.out} holds a search whose trial {trial.number} {other}; go on as it was begun, or give "
                    "another --out"
                )

    @property
    def looks(self) -> Path:
        """Where runs lie for as long as they are looked at."""
        return self.out / "looks"

    def score(self, run: Path, trial: Trial) -> dict[str, Any]:
        """How well a run does on what is held out. Raises InputError where that is no number."""
        import math

        from foveal.cli._held_out import scored
        from foveal.cli._show import no_bar

        given: Any = {"folder": self.folder, "recipe": trial.recipe, "progress": no_bar}
        found = scored(run, self.evaluation, self.metric, **given)
        if found["score"] is None or not math.isfinite(found["score"]):
            raise InputError(f"its {self.metric} is {found['score']}")
        return found


def state(record: Record) -> str:
    """How a trial stands: done, stopped, failed, broken or begun; nothing where it was not begun."""
    return record.told.get("training", {}).get("state", BEGUN if record.begun else "")


def looked(record: Record) -> list[dict[str, Any]]:
    """The looks that were taken at a trial, in their order."""
    return record.told.get("looks", [])


def carry(trial: Trial, task: Task, report: Report) -> None:
    """Train and score a trial, from where it stands; what fails is told in its record, and ends nothing else."""
    os.chdir(task.home)
    record = task.record(trial)
    try:
        _carry(trial, task, record, report)
    except Exception as error:
        record.put(training=_failed(error))


def _carry(trial: Trial, task: Task, record: Record, report: Report) -> None:
    import torch

    from foveal.cli._looks import Looks
    from foveal.cli._show import no_bar
    from foveal.cli._training import carry_out

    torch.set_num_threads(task.threads)
    run = task.run(trial)
    if not record.begun:
        shutil.rmtree(run, ignore_errors=True)
    record.told.pop("training", None)  # how it ended before
    record.put(**trial.marks)
    looks = Looks(
        shares=task.shares,
        folder=task.looks,
        look=partial(_look, trial, task, record),
        then=partial(_tell, task, record, report),
    )
    with open(task.out / "trials" / f"{trial.name}.txt", "a", encoding="utf-8") as log:

        def say(line: str) -> None:
            print(line, file=log, flush=True)

        told = carry_out(trial.recipe, run, fresh=False, say=say, bar=no_bar, looks=looks)
    found = task.score(run, trial)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    ended = {key: told[key] for key in ("steps", "seconds", "loss")}
    record.put(training={"state": DONE, **ended}, evaluation=found)
    report(found["score"], len(task.shares))


def _look(trial: Trial, task: Task, record: Record, run: Path, share: float, progress: Progress) -> None:
    """Score a run that is not at its end, unless that was done before the trial was broken off."""
    if not any(look["share"] == share for look in looked(record)):
        told = {"share": share, "steps": progress.step, "seconds": round(progress.seconds, 1)}
        found = task.score(run, trial)
        record.put(looks=[*looked(record), told | {key: found[key] for key in ("score", "interval")}])


def _tell(task: Task, record: Record, report: Report, share: float) -> None:
    known = next(look for look in looked(record) if look["share"] == share)
    report(known["score"], task.shares.index(share))


def _failed(error: Exception) -> Mapping[str, Any]:
    """A failure in words: failed is what these settings come to, broken what should have gone."""
    own = isinstance(error, InputError) and not isinstance(error.__context__, OSError)
    told = str(error) if isinstance(error, InputError) else "".join(traceback.format_exception_only(error)).strip()
    return {"state": FAILED if own else BROKEN, "error": " ".join(told.split())}
