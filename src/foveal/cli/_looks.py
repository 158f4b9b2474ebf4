"""A run as it stands before its training has ended: saved for who looks at it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.training.checkpoint import Progress
from foveal.training.config import Stage
from foveal.training.watch import Watch

if TYPE_CHECKING:
    from foveal.preprocess.processor import Processor
    from foveal.weights.run import Run


@dataclass(frozen=True, kw_only=True)
class Looks:
    """`look(run, share, progress)` at `shares` of the last stage; the run's directory, in `folder`, is gone afterwards.

    `then(share)` follows, when that is gone.
    """

    shares: tuple[float, ...]
    folder: Path
    look: Callable[[Path, float, Progress], None]
    then: Callable[[float], None]

    def watch(self, save: Callable[[Stage, Path], None]) -> Watch:
        """What the training loop is given; `save` writes the run of a stage."""

        def look(stage: Stage, share: float, progress: Progress) -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                save(stage, Path(place))
                self.look(Path(place), share, progress)
            self.then(share)

        return Watch(shares=self.shares, look=look)


def save(run: "Run", processor: "Processor", place: Path, *, about: Mapping[str, Any]) -> None:
    """Write a run with the processor of a stage, what its adapters have learned merged into the weights."""
    from foveal.training.lora import merged

    kept = {"external": run.external, "origin": run.origin, "beside": run.beside}
    type(run)(merged(run.model), processor, **kept, about=about).save(place)
