"""Which file of this room puts a config together."""

import importlib
from types import ModuleType
from typing import Any

from foveal.core.errors import unknown
from foveal.models.config import ModelConfig

_ASSEMBLIES = ("autoencoder", "causal", "masked", "seq2seq", "two_tower")


def assemble(config: ModelConfig) -> Any:
    """A model with fresh weights. Raises InputError for an unknown assembly and for parts that do not fit."""
    return _file(config).assemble(config)


def check(config: ModelConfig) -> None:
    """Raises InputError for an unknown assembly, and for a component that it cannot do without and is not named."""
    for room in _file(config).NEEDS:
        config.part(room)


def empty(config: ModelConfig) -> Any:
    """A model whose weights take no memory yet, for loading a checkpoint into."""
    return _file(config).empty(config)


def _file(config: ModelConfig) -> ModuleType:
    if config.assembly not in _ASSEMBLIES:
        raise unknown("assembly", config.assembly, _ASSEMBLIES)
    return importlib.import_module(f"foveal.models.{config.assembly}")
