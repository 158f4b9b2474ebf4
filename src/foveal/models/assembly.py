"""Which file of this room puts a config together."""

import importlib
from types import ModuleType
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.lookup import Spec
from foveal.models.config import ModelConfig
from foveal.models.making import unfilled

ASSEMBLIES = ("autoencoder", "causal", "masked", "seq2seq", "two_tower")
_SIZES = ("width", "heads", "kv_heads", "head_width", "inner", "context", "patch", "stride", "image_size", "vocabulary")
_BETWEEN = ("kernel", "queries", "latents", "factor", "frequency", "every", "width_of_sight")
_LEAST = {**dict.fromkeys(("depth", "places", "positions", "images"), 0), **dict.fromkeys((*_SIZES, *_BETWEEN), 1)}
_JOINS = _LEAST | {"depth": 1, "inner": 0, "vocabulary": 0}  # a connector may do without words and an inner map
_ROOMS = {"vision": _LEAST, "language": _LEAST, "fusion": _LEAST, "connector": _JOINS, "levels": _JOINS}


def assemble(config: ModelConfig) -> Any:
    """A model with fresh weights. Raises InputError for an unknown assembly and for parts that do not fit."""
    return _file(config).assemble(config)


def check(config: ModelConfig) -> None:
    """Raises InputError for an unknown assembly, a component that it cannot do without, and a size of nothing."""
    for room in _file(config).NEEDS:
        config.part(room)
    if config.connector is not None and config.vision is None and config.features is None:
        raise InputError(
            f"connector {config.connector.name!r} has nothing to connect: the model names no vision; name one, or "
            "leave the connector out"
        )
    if config.features is not None and config.features < 1:
        raise InputError(f"model.features is {config.features}; give the width of a region's features, 1 or more")
    for room, sizes in _ROOMS.items():
        part: Spec | None = getattr(config, room)
        for name, least in sizes.items():
            value = getattr(part.settings, name, None) if part is not None else None
            if isinstance(value, int) and value < least:
                raise InputError(f"model.{room}.{name} is {value}; give {least} or more")


def empty(config: ModelConfig) -> Any:
    """A model whose weights take no memory yet, for loading a checkpoint into.

    Takes the errors of `check`, and raises InputError for sizes of which nothing can be made.
    """
    check(config)
    try:
        return unfilled(_file(config).assemble, config)
    except (ArithmeticError, RuntimeError) as error:  # nothing is computed there: it is the sizes
        why = str(error).splitlines()[0]
        raise InputError(f"no model can be made of these sizes ({why}); mend the config") from None


def _file(config: ModelConfig) -> ModuleType:
    if config.assembly not in ASSEMBLIES:
        raise unknown("assembly", config.assembly, ASSEMBLIES)
    return importlib.import_module(f"foveal.models.{config.assembly}")
