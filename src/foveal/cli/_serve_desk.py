"""The line before the model of `foveal serve`: one worker asks it, and lets the first in line join the others."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any

from foveal.cli._serve_metrics import Load
from foveal.cli._serve_speaker import Job, Speaker
from foveal.cli._serve_table import Table
from foveal.cli._serve_wish import Refusal, Wish

LINE = 64  # requests that may wait
_GRACE = 2  # seconds in which those who are answered can still be told that the server ends


class Desk:
    """Requests answered in the order they came, up to `together` at once; `line` more may wait.

    With `threads` the worker computes on so many.
    """

    def __init__(self, speaker: Speaker, *, together: int = 1, line: int = LINE, threads: int | None = None) -> None:
        self.speaker, self._table = speaker, Table(speaker, together)
        self._line: list[Job] = []
        self._asked: tuple[Job, ...] = ()
        self._changed, self._ending = threading.Condition(), False
        self._room, self._taken = line + together, 0
        self._worker = threading.Thread(target=self._work, args=(threads,), name="foveal serve", daemon=True)
        self._worker.start()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Whether there is room for one more request, and the room for it while it is read, waits and is answered."""
        with self._changed:
            free = self._taken < self._room and not self._ending
            self._taken += free
        try:
            yield free
        finally:
            with self._changed:
                self._taken -= free

    def ask(self, wish: Wish, events: Any = None) -> Job:
        """Put a wish in line; what becomes of it is put into `events`, or into a queue of the job's own."""
        job = Job(wish) if events is None else Job(wish, events)
        with self._changed:
            if self._ending:
                job.tell(_ended())
            else:
                self._line.append(job)
                self._changed.notify_all()
        return job

    @property
    def load(self) -> Load:
        """How many there are at this moment."""
        with self._changed:
            return Load(open=self._taken, waiting=_there(self._line), answering=_there(self._asked))

    def close(self) -> None:
        """Answer nobody any more, and tell those who wait."""
        with self._changed:
            self._ending = True
            for job in (*self._line, *self._asked):
                job.tell(_ended())
                job.gone.set()
            self._line.clear()
            self._changed.notify_all()
        until = monotonic() + _GRACE
        while self._taken and monotonic() < until:
            sleep(0.01)
        self._worker.join()  # it ends with the token, or the picture, that it is at

    def _work(self, threads: int | None) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        while self._let_in():
            self._table.turn()

    def _let_in(self) -> bool:
        """Let the first in line join where there is a place, once there is anyone; False when it ends."""
        with self._changed:
            self._asked = self._table.jobs
            self._changed.wait_for(lambda: self._line or self._asked or self._ending)
            if self._ending:
                return False
            self._line = [job for job in self._line if not job.gone.is_set()]
            taken = self._table.next(self._line)
            self._line = self._line[len(taken) :]
            self._asked += taken
        if taken:
            self._table.seat(taken)
        return True


def _there(jobs: Iterable[Job]) -> int:
    """How many of those who asked have not gone meanwhile."""
    return sum(not job.gone.is_set() for job in jobs)


def _ended() -> Refusal:
    return Refusal("the server is ending; ask another", status=HTTPStatus.SERVICE_UNAVAILABLE)
