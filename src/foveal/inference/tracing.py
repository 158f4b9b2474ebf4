"""Parts of a model as programs, and what every engine is made of: a graph that runs, and what it needs to."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.inference.pieces import Piece

_LONGEST = 1 << 20  # of an axis of any length


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph ready to run: what each input is, by name, to what each output is; `by` whom it is computed."""

    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    by: str

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by their names."""
        return self.run(given)


def traced(piece: Piece) -> torch.export.ExportedProgram:
    """The program of a part."""
    dims: dict[str, Any] = {
        axis: torch.export.Dim(axis, max=_LONGEST) for axes in piece.free.values() for axis in axes.values()
    }
    dims["all"] = torch.export.Dim.DYNAMIC  # the earlier and the new ones
    shapes = {one: {axis: dims[name] for axis, name in piece.free.get(one, {}).items()} for one in piece.given}
    given = {name: value.contiguous() for name, value in piece.given.items()}
    with torch.no_grad():
        return torch.export.export(piece.part.eval(), (given,), dynamic_shapes=(shapes,))


def in_order(given: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """What a graph is given, as it was traced: in this order, and without gaps in memory."""
    return {name: given[name].detach().contiguous() for name in names}


def needed(engine: str, packages: Sequence[str], *, extra: str) -> None:
    """Raise InputError for packages of an engine that are not installed."""
    if lacks := [part for part in packages if find_spec(part) is None]:
        raise InputError(f"{engine} needs {', '.join(lacks)}; pip install 'foveal[{extra}]'")


def spoiled(path: Path, error: Exception) -> InputError:
    """The error of a file that an engine does not read."""
    return InputError(f"{path} holds no graph ({str(error).splitlines()[0]}); export the model anew")


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Without what a tracer says of itself, and of what it will not take in a later version; errors are logged."""
    speaker = logging.getLogger(logger)
    before = speaker.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        speaker.setLevel(logging.ERROR)
        try:
            yield
        finally:
            speaker.setLevel(before)
