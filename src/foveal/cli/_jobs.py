"""All trainings of a comparison: one after the other here, or several at a time in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foveal.cli import _cells, _examples
from foveal.cli._cells import Place
from foveal.cli._comparison import Job
from foveal.core.errors import InputError
from foveal.evaluation.cells import Record


def carry_all(jobs: Sequence[Job], place: Place, *, arguments: Sequence[str], count: int) -> None:
    """Do what is not done of all jobs, `count` at a time; `arguments` are those of the command that does one.

    Raises InputError for no job at a time and data that are not there, and Interrupted.
    """
    if count < 1:
        raise InputError(f"--jobs {count} trains nothing; give 1 or more")
    if left := [job for job in jobs if _cells.missing(job, place.record(job))]:
        _cells.check_data(left[0])
    _examples.data_folder(jobs[0].recipe, say=place.say, bar=place.bar)  # made once, before several want it
    place.say(f"{len(jobs) - len(left)} of {len(jobs)} trainings are done")
    clock = _Clock(left, place)
    if count == 1:
        for job in left:
            clock.begins(job)
            clock.ends(job, _cells.carry(job, place))
        return
    with ThreadPoolExecutor(max_workers=count) as pool:
        seats = [pool.submit(_apart, job, place, [*arguments, "--only", job.name], turn, count, clock)
                 for turn, job in enumerate(left)]  # fmt: skip
        try:
            for seat in seats:
                seat.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Clock:
    """Tells how many trainings are done, and about how long the others will take."""

    def __init__(self, left: Sequence[Job], place: Place) -> None:
        self.total, self.place, self.done, self.begun, self.began = len(left), place, 0, 0, time.monotonic()
        self.long = {job.name for job in left if place.elsewhere(job) is None}  # the others take next to no time
        self.trainings = len(self.long)

    def begins(self, job: Job) -> None:
        """A training begins."""
        self.begun += 1
        self.place.say(f"[{self.begun}/{self.total}] {job.name} ({_minutes(time.monotonic() - self.began)})")

    def ends(self, job: Job, record: Record) -> None:
        """A training has ended so."""
        self.done += 1
        self.long.discard(job.name)
        trained, spent = self.trainings - len(self.long), time.monotonic() - self.began
        told = f", about {_minutes(spent / trained * len(self.long))} left" if self.long and trained else ""
        self.place.say(f"{job.name} {_cells.outcome(record)}; {self.done} of {self.total}{told}")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _apart(job: Job, place: Place, arguments: Sequence[str], turn: int, count: int, clock: _Clock) -> None:
    """One job in a process of its own; one that dies leaves a record of that."""
    clock.begins(job)
    logs = place.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file: Path = logs / f"{job.name}.txt"
    with open(file, "w", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "-m", "foveal.cli.main", *arguments],
            stdout=log, stderr=subprocess.STDOUT, env=_seat(turn, count), check=False,
        ).returncode  # fmt: skip
    record = place.record(job)
    if code and not record.trained:
        told = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        words = told[-1] if told else "it said nothing"
        record.put(key=job.key, training={"state": "failed", "error": f"exit code {code}: {words} ({file})"})
    clock.ends(job, record)


def _seat(turn: int, count: int) -> dict[str, str]:
    """The environment of a process: a device of its own where there are several, else a share of the cores."""
    import torch

    from foveal.core.machine import cores

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices > 1:
        return {**os.environ, "CUDA_VISIBLE_DEVICES": str(turn % devices)}
    return {"OMP_NUM_THREADS": str(max(1, cores() // count)), **os.environ}
