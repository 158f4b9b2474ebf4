"""AOTInductor: torch's own compiler ahead of time, into a package that needs no compiler to run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.inference.pieces import Piece
from foveal.inference.tracing import Graph, in_order, quiet, spoiled, traced

END = "pt2"
_SETTINGS = {"cpp.dynamic_threads": True}  # as many as torch has when it runs, not when it was written
_LOGGER = "torch._inductor.package.package"  # which takes a package for an old one where there is no compiler


def check(*, writes: bool) -> None:
    """Raise InputError where there is no compiler to write by."""
    from torch._inductor import config

    names = [name.split()[0] for name in config.cpp.cxx if name]
    if writes and not any(map(shutil.which, names)):
        raise InputError(
            f"aoti compiles by a C++ compiler, and there is no {' or '.join(names)}; install one (apt install g++, "
            "dnf install gcc-c++), or name yours by the variable CXX"
        )


def write(piece: Piece, path: Path) -> dict[str, Any]:
    """Compile a part and write its package, with its weights; tells for what processor it is."""
    from torch._inductor import aoti_compile_and_package

    with quiet(_LOGGER):
        aoti_compile_and_package(traced(piece), package_path=str(path), inductor_configs=dict(_SETTINGS))
    return {"processor": torch.backends.cpu.get_cpu_capability()}


def opened(path: Path, told: Mapping[str, Any]) -> Graph:
    """The graph of a package; raises InputError for one of another kind of processor."""
    from torch._inductor import aoti_load_package

    if (meant := told.get("processor")) != (here := torch.backends.cpu.get_cpu_capability()):
        raise InputError(f"{path} was compiled for a processor with {meant}, and this one has {here}; export it here")
    try:
        with quiet(_LOGGER):
            package = aoti_load_package(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise spoiled(path, error) from None
    names, gives = [*told["given"]], told["gives"]

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = package(in_order(given, names))
        return dict(zip(gives, (made,) if isinstance(made, Tensor) else made, strict=True))

    return Graph(run=run, by="AOTInductor, on the processor")
