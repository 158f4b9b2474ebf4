"""What a step of training frees, kept for the next one."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # the numbers of glibc's malloc.h
_WITHIN = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_AFTER = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # where glibc's own growth ends
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")  # by its user
_lock, _within = threading.Lock(), 0


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within it, memory that is freed stays with this process, and is given back at the end of the outermost.

    Else glibc hands large blocks back at once, and the next step's numbers meet fresh pages, each of which the system
    must find and clear. Does nothing where the C library is another, or its user has set it up by the environment.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _enter(library, 1)
    try:
        yield
    finally:
        _enter(library, -1)


def _enter(library: ctypes.CDLL, step: int) -> None:
    global _within
    with _lock:
        before, _within = _within, _within + step
        if not before:
            _set(library, _WITHIN)
        elif not _within:
            _set(library, _AFTER)
            library.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc and left to itself."""
    chosen = any(name in os.environ for name in _CHOSEN) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "malloc_trim") else None


def _set(library: ctypes.CDLL, settings: Mapping[int, int]) -> None:
    for name, value in settings.items():
        library.mallopt(name, value)
