"""What a visual token of a run is, where that must be said beside its numbers."""

import warnings
from pathlib import Path

BOUND = (
    "it read the data's true boxes, which tell how many things there are and where: a bound, not a system to compare"
)


def source(run: Path | None) -> str:
    """What lies in the visual tokens of a run: cells of a `grid`, `windows`, true boxes (`oracle`), or a `file` says.

    A checkpoint of another origin has a grid.
    """
    from foveal.weights.directory import read_config

    path = None if run is None else run / "config.yaml"
    if path is None or not path.is_file():
        return "grid"
    settings = read_config(path).get("processor") or {}
    return "file" if settings.get("region_files") else settings.get("regions", "grid")


def warn(run: Path | None) -> None:
    """Tell who asks a run that learned from true boxes, that a picture brings none."""
    if source(run) == "oracle":
        told = f"{run} learned from true boxes and a picture brings none: it sees the whole image alone"
        warnings.warn(told, stacklevel=2)
