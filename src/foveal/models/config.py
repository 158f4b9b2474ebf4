"""What a model is made of, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foveal.core.config import dump
from foveal.core.errors import unknown
from foveal.core.lookup import Spec, spec

_ROOMS = {"vision": "vision", "connector": "connectors", "fusion": "fusion", "language": "language", "head": "heads"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One component of each room; without `vision` it is a language model alone."""

    language: Spec
    head: Spec
    fusion: Spec
    vision: Spec | None = None
    connector: Spec | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "ModelConfig":
        """A config out of plain mappings; raises InputError for an unknown key or component."""
        for key in given:
            if key not in _ROOMS:
                raise unknown("key in model:", str(key), _ROOMS)
        filled = {"fusion": "prefix", "head": "language_model", **{k: v for k, v in given.items() if v is not None}}
        if "vision" in filled:
            filled.setdefault("connector", "linear")
        filled.setdefault("language", {})
        return cls(**{key: spec(_ROOMS[key], value) for key, value in filled.items()})

    def dump(self) -> dict[str, Any]:
        """Plain mappings that `parse` reads back."""
        parts = {key: getattr(self, key) for key in _ROOMS}
        return {key: {"name": part.name, **dump(part.settings)} for key, part in parts.items() if part is not None}
