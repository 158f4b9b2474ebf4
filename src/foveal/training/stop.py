"""A polite end: the first Ctrl-C lets the step finish and a checkpoint be written, the second one does not wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was asked to end before its time; `checkpoint` is where it resumes (None: at the beginning)."""

    def __init__(self, signum: int, step: int, checkpoint: Path | None) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step, self.checkpoint = step, checkpoint
        self.exit_code = 128 + signum  # as shells count: 130 for Ctrl-C, 143 for a polite kill


class Stop:
    """Within it, SIGINT and SIGTERM are remembered in `signum`; a second one raises KeyboardInterrupt.

    Within `at_once` the first does.
    """

    def __init__(self) -> None:
        self.signum, self.waits = 0, True
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for signum in SIGNALS:
                self.before[signum] = signal.signal(signum, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        again, self.signum = bool(self.signum), signum
        if again or not self.waits:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For what takes long and may break off anywhere: a signal ends it, also one that has come before."""
        if self.signum:
            raise KeyboardInterrupt
        self.waits = False
        try:
            yield
        finally:
            self.waits = True
