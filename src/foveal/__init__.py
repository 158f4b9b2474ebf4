"""Foveal: every way of fusing vision and language in one small house.

`foveal.load`, `foveal.build`, `foveal.compress` and `foveal.relevance` are the front door; heavy imports happen when
they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal import relevance as relevance
    from foveal.front import build as build
    from foveal.front import load as load
    from foveal.interop.compress import compress as compress

__version__ = "0.1.0"
__all__ = ["__version__", "build", "compress", "load", "relevance"]
_FRONT = {"load": "foveal.front", "build": "foveal.front", "compress": "foveal.interop.compress"}
_ROOMS = ("relevance",)  # those that are of use alone, tensors in and tensors out

if not TYPE_CHECKING:  # to who reads types, a name that is not above is an error

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"foveal.{name}")
        if name not in _FRONT:
            raise AttributeError(f"module 'foveal' has no attribute {name!r}")
        return getattr(importlib.import_module(_FRONT[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
