"""Models that come with Foveal or with a package beside it, by name."""

import os
from pathlib import Path

from foveal.core.errors import InputError
from foveal.weights import smollm2


def starter() -> Path:
    """The directory of the starter model; InputError where this installation has none."""
    folder = Path(__file__).parents[1] / "starter"
    if not (folder / "config.yaml").is_file():
        raise InputError("this installation of Foveal holds no starter model; name a run or train one")
    return folder


NAMES = {"starter": starter, "smollm2-135m": smollm2.smollm2}


def place(path: str | os.PathLike[str]) -> Path:
    """The directory of this path, or of a packaged model by its name where there is no such directory.

    Raises InputError for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is no path; give a run, a checkpoint, or {' or '.join(NAMES)}")
    directory = Path(os.path.expanduser(path))
    return NAMES[str(path)]() if not directory.exists() and str(path) in NAMES else directory
