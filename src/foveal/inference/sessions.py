"""Graphs written to files and run from them by an engine, of which `engines` has a file each, in float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.lookup import module, names
from foveal.inference.pieces import Piece
from foveal.inference.tracing import Graph

_ROOM = "inference.engines"


def engines() -> tuple[str, ...]:
    """The names of all engines."""
    return names(_ROOM)


def check_engine(name: str, *, writes: bool) -> None:
    """Raise InputError for an engine of another name, and where what it needs to run, or to write, is not there."""
    if name not in engines():
        raise unknown("engine", name, engines())
    module(_ROOM, name).check(writes=writes)


def write(piece: Piece, name: str, *, engine: str, folder: Path) -> dict[str, Any]:
    """Write the graph of a part for an engine; returns its file's name, and what else the engine has to be told."""
    made = module(_ROOM, engine)
    file = f"{name}.{made.END}"
    return {"file": file, **made.write(piece, folder / file)}


def opened(path: Path, told: Mapping[str, Any], *, engine: str) -> Graph:
    """A graph ready to run, on as many threads as torch; raises InputError for a file that holds none.

    `told` is what the manifest says of it.
    """
    if not path.is_file():
        raise InputError(f"there is no graph {path}; export the model anew")
    return module(_ROOM, engine).opened(path, told)
