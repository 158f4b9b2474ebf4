"""What a step of training frees, kept for the next one."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # the numbers of glibc's malloc.h
_WITHIN = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_AFTER = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # where glibc's own growth ends


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within it, memory that is freed stays with this process, and is given back at the end.

    Else glibc hands large blocks back at once, and the next step's numbers meet fresh pages, each of which the system
    must find and clear. Does nothing where another library allocates.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, _WITHIN)
    try:
        yield
    finally:
        _set(library, _AFTER)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "malloc_trim") else None


def _set(library: ctypes.CDLL, settings: dict[int, int]) -> None:
    for name, value in settings.items():
        library.mallopt(name, value)
