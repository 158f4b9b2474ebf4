"""Trials of a search carried out by Ray Tune: several at a time, those stopped that do worse than others."""

import contextlib
import io
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foveal.cli import _trial
from foveal.cli._trial import FAILED, STOPPED, Task
from foveal.cli._tuning import Trial, Tuning
from foveal.core.errors import InputError
from foveal.evaluation.cells import DONE
from foveal.training.stop import Interrupted, Stop

_LONGEST = 40  # letters of the directory for temporary files, below which Ray makes sockets, whose names are short
_STORE = 80 << 20  # bytes that Ray's processes share: numbers alone go between them
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # whose handlers Ray puts in the place of others
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@dataclass(frozen=True, kw_only=True)
class Seats:
    """How many trials go on at a time, and what each of them has."""

    parallel: int
    threads: int
    gpus: float

    @classmethod
    def of(cls, wanted: Tuning) -> "Seats":
        """As the search says; else all cores and accelerators of the machine, in equal shares.

        Raises InputError for more than the machine has.
        """
        import torch

        from foveal.core.machine import cores

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        share = 0.0 if not there else min(1.0, 1 / -(-wanted.parallel // there))
        gpus = share if wanted.gpus is None else wanted.gpus
        if gpus * wanted.parallel > there:
            raise InputError(
                f"{wanted.parallel} trials at a time with gpus {gpus:g} each, and this machine has {there}; give fewer"
            )
        threads = wanted.threads or max(1, cores() // wanted.parallel)
        return cls(parallel=wanted.parallel, threads=threads, gpus=gpus)


def check_ray() -> None:
    """Raise InputError where Ray Tune is not installed."""
    if lacks := [part for part in ("ray", "pyarrow", "pandas") if find_spec(part) is None]:
        raise InputError(f"tune needs {', '.join(lacks)}; pip install 'foveal[tune]'")


def left(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The trials that have not come to their end; a stopped one has, where trials are stopped."""
    ended = (DONE, FAILED, STOPPED) if task.shares else (DONE, FAILED)
    return [trial for trial in trials if _trial.state(task.record(trial)) not in ended]


def search(trials: Sequence[Trial], task: Task, wanted: Tuning, seats: Seats) -> None:
    """Carry out what is left of the trials. Raises Interrupted where it is broken off: what is done is kept."""
    todo = left(trials, task)
    if not todo:
        return
    with Stop() as stop:
        try:
            with (
                stop.at_once(),
                _ray(seats) as place,
                contextlib.redirect_stdout(io.StringIO()),
            ):  # it has its own table
                _tuner(todo, trials, task, wanted, seats, place).fit()
        except (KeyboardInterrupt, SystemExit):  # Ray exits where SIGTERM comes while it starts
            raise Interrupted(stop.signum or signal.SIGTERM, 0, None) from None
    shutil.rmtree(task.looks, ignore_errors=True)


def _tuner(
    todo: Sequence[Trial], trials: Sequence[Trial], task: Task, wanted: Tuning, seats: Seats, place: Path
) -> Any:
    """What carries out the trials that are left, of all; `place` is for Ray's own files."""
    from ray import tune

    from foveal.cli._search_ends import Ends

    named = {trial.number: trial for trial in todo}
    return tune.Tuner(
        tune.with_resources(
            partial(_carried, named, task, wanted.asha.factor), {"cpu": seats.threads, "gpu": seats.gpus}
        ),
        param_space={"number": tune.grid_search(list(named))},
        tune_config=tune.TuneConfig(scheduler=_scheduler(trials, task, wanted), reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(place), name="tune", verbose=0, callbacks=[Ends(named, task)]),
    )


def _carried(trials: Mapping[int, Trial], task: Task, factor: int, config: Mapping[str, Any]) -> None:
    """What Ray calls in a process of its own."""
    from ray import tune

    def report(score: float, look: int) -> None:
        tune.report({"score": score, "length": factor**look})

    _trial.carry(trials[config["number"]], task, report)


def _scheduler(trials: Sequence[Trial], task: Task, wanted: Tuning) -> Any:
    """What stops trials, told of those that ended in an earlier part of the search."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from foveal.cli._held_out import LOSS

    if not task.shares:
        return FIFOScheduler()
    factor, mode = wanted.asha.factor, "min" if wanted.metric == LOSS else "max"
    made: Any = ASHAScheduler(
        time_attr="length", metric="score", mode=mode, max_t=factor ** len(task.shares), reduction_factor=factor
    )
    for trial in trials:
        record = task.record(trial)
        if _trial.state(record) in (DONE, STOPPED):
            known = SimpleNamespace(trial_id=f"known-{trial.name}")
            made.on_trial_add(None, known)
            for look in _trial.looked(record):
                if look["share"] in task.shares:
                    length = factor ** task.shares.index(look["share"])
                    made.on_trial_result(None, known, {"score": look["score"], "length": length})
    return made


@contextlib.contextmanager
def _ray(seats: Seats) -> Iterator[Path]:
    """Ray on this machine alone, in a directory that is gone afterwards, with hardly a word of its own."""
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST else "/tmp"
    place = Path(tempfile.mkdtemp(prefix="foveal-", dir=short))
    with _environment({**_QUIET, "RAY_AUTH_TOKEN": secrets.token_hex(32)}):  # else it keeps one in the user's home
        import ray

        try:
            ray.init(
                address="local",
                num_cpus=seats.parallel * seats.threads,
                num_gpus=None if seats.gpus else 0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_STORE,
                _temp_dir=str(place),
            )
            _handle(before)
            yield place
        finally:
            ray.shutdown()
            _handle(before)
            shutil.rmtree(place, ignore_errors=True)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
