"""A directory that takes its place whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from foveal.core.errors import InputError


def check_free(out: Path) -> None:
    """Raise InputError for a place where something is, and for a link to nowhere."""
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out} is a link to {out.readlink()}, which is not there; name another place by --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; name another place by --out")


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A folder that takes its place when all went well, so that what fails leaves nothing.

    Raises InputError for a place that is taken, and for one where nothing can be made.
    """
    check_free(out)
    with _beside(out) as place:
        made = Path(place) / "made"
        made.mkdir()
        yield made
        if out.is_dir():
            out.rmdir()  # an empty one
        made.rename(out)


def _beside(out: Path) -> "TemporaryDirectory[str]":
    """A folder in the same directory, which is made where it is not there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=out.parent, prefix=".foveal-")
    except OSError as error:
        raise InputError(f"cannot make {out} ({error.strerror}); name another place by --out") from None
