"""The line before the model of `foveal serve`: one worker asks it, and takes along who can be answered together."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any

from foveal.cli._serve_metrics import Load
from foveal.cli._serve_speaker import Job, Speaker
from foveal.cli._serve_wish import Refusal, Wish

LINE = 64  # requests that may wait
_LINGER = 0.01  # seconds that the first in line waits for company, where there may be any
_GRACE = 2  # seconds in which those who are answered can still be told that the server ends


class Desk:
    """Requests answered in the order they came, up to `together` at once; `line` more may wait.

    With `threads` the worker computes on so many.
    """

    def __init__(self, speaker: Speaker, *, together: int = 1, line: int = LINE, threads: int | None = None) -> None:
        self.speaker, self.together = speaker, together
        self._line: deque[Job] = deque()
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
            return Load(open=self._taken, waiting=len(self._line), answering=len(self._asked))

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
        while jobs := self._next():
            self.speaker.answer(jobs)

    def _next(self) -> tuple[Job, ...]:
        """Who is answered next; nobody when it ends."""
        with self._changed:
            self._asked = ()
            while not self._asked and not self._ending:
                self._changed.wait_for(lambda: self._line or self._ending)
                if self.together > 1:
                    self._changed.wait_for(lambda: len(self._line) >= self.together or self._ending, _LINGER)
                waiting = [job for job in self._line if not job.gone.is_set()]
                self._asked = self.speaker.company(waiting, self.together)
                self._line = deque(job for job in waiting if job not in self._asked)
            return self._asked


def _ended() -> Refusal:
    return Refusal("the server is ending; ask another", status=HTTPStatus.SERVICE_UNAVAILABLE)
