"""A directory that one command works in at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foveal.core.errors import InputError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a directory, which is made where it is not there, for as long as this process works in it.

    The system lets go of it when the process ends, however that comes; where there are no such locks none is held.
    Raises InputError where another process holds it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        try:
            yield
        finally:
            for place in made:  # what is refused leaves nothing
                with suppress(OSError):
                    place.rmdir()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"another foveal works in {folder} now; let it come to its end, or give another --out"
            raise InputError(told) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked worker that still ends has the handle too
        os.close(handle)
