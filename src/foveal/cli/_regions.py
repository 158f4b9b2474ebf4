"""What a visual token of a run is, where that must be said beside its numbers."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from foveal.preprocess.processor import ProcessorConfig

BOUND = (
    "it read the data's true boxes, which tell how many things there are and where: a bound, not a system to compare"
)


def source(run: Path | None) -> str:
    """What lies in the visual tokens: cells of a `grid`, `windows`, `proposals`, true boxes (`oracle`), or a `file`'s.

    A checkpoint of another origin has a grid.
    """
    from foveal.weights.directory import described

    settings = (described(run) or {}).get("processor") or {}
    return "file" if settings.get("region_files") else settings.get("regions", "grid")


def warn(run: Path | None) -> None:
    """Tell who asks a run that learned from true boxes, that a picture brings none."""
    if source(run) == "oracle":
        told = f"{run} learned from true boxes and a picture brings none: it sees the whole image alone"
        warnings.warn(told, stacklevel=2)


def check(config: "ProcessorConfig") -> None:
    """Raises InputError for proposals that no run finds."""
    from foveal.cli._detection import detects
    from foveal.weights import proposals

    if config.regions != "proposals":
        return
    if config.proposals is None:
        raise InputError(
            "processor.regions are proposals, boxes that a run finds; name it with processor.proposals=RUN, or take "
            "'windows'"
        )
    wanted = proposals.pinned(config.proposals)  # refuses where there is no run
    if not detects(Path(wanted.run)):
        raise InputError(f"the run {wanted.run} finds no boxes; name one of a detection recipe (pix2seq)")


def pinned(config: "ProcessorConfig") -> "ProcessorConfig":
    """The same with the place and the fingerprint of the run that finds its proposals."""
    from foveal.weights import proposals

    if config.regions != "proposals" or config.proposals is None:
        return config
    return replace(config, proposals=proposals.pinned(config.proposals))
