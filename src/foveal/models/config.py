"""What a model is made of, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foveal.core.config import convert, dump
from foveal.core.errors import InputError, unknown
from foveal.core.lookup import Spec, names, spec
from foveal.layers.mosaic import Mosaic

_ROOMS = {
    "vision": "vision",
    "connector": "connectors",
    "levels": "connectors",
    "allocator": "relevance.strategies",
    "fusion": "fusion",
    "language": "language",
    "head": "heads",
}
_OTHERS = ("heads", "features", "mosaic", "assembly")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One component of each room; without `vision` it is a language model alone, without `language` an image tokenizer.

    A `connector` of null is none: the fusion reads the codes of the vision encoder. Where the fusion reads other depths
    of the encoder, each has a connector of its own, of the kind `levels` (None: as `connector`).

    An `allocator` spends a budget of visual tokens between the connector and the text.

    `assembly` names the file of this room that puts them together. `features` is the width of region features that
    are made elsewhere, in the place of a vision encoder. An assembly with several outputs has `heads` by name. `mosaic`
    says how tiles of an image are put together after the connector (None: one after the other).
    """

    language: Spec | None = None
    head: Spec | None = None
    fusion: Spec | None = None
    vision: Spec | None = None
    connector: Spec | None = None
    levels: Spec | None = None
    allocator: Spec | None = None
    heads: Mapping[str, Spec] = field(default_factory=dict, hash=False)
    features: int | None = None
    mosaic: Mosaic | None = None
    assembly: str = "causal"

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "ModelConfig":
        """A config out of plain mappings; raises InputError for an unknown key or component, and for other values."""
        if not isinstance(given, Mapping):
            raise InputError(f"model is {given!r}; give a mapping of its parts, such as vision and language")
        for key in given:
            if key not in (*_ROOMS, *_OTHERS):
                raise unknown("key in model:", str(key), (*_ROOMS, *_OTHERS))
        plain = {"features": int, "assembly": str}
        others: dict[str, Any] = {
            key: convert(kind, given[key], where=f"model.{key}")
            for key, kind in plain.items()
            if given.get(key) is not None
        }
        if given.get("mosaic") is not None:
            others["mosaic"] = convert(Mosaic, given["mosaic"], where="model.mosaic")
        heads = convert(dict[str, Any], given.get("heads") or {}, where="model.heads")
        heads = {name: spec("heads", head) for name, head in heads.items()}
        bare = "connector" in given and given["connector"] is None
        given = {key: value for key, value in given.items() if key in _ROOMS}
        filled = {key: value for key, value in given.items() if value is not None}
        if "language" in filled:
            seen = "vision" in filled or "features" in others
            defaults = {"fusion": "prefix", "head": "language_model", **({"connector": "linear"} if seen else {})}
            filled = {key: value for key, value in defaults.items() if key != "connector" or not bare} | filled
        return cls(**{key: spec(_ROOMS[key], value) for key, value in filled.items()}, heads=heads, **others)

    def part(self, room: str) -> Spec:
        """The component of a room that the assembly cannot do without; raises InputError where none is named."""
        found = getattr(self, room)
        if found is None:
            known = ", ".join(names(_ROOMS[room]))
            raise InputError(f"assembly {self.assembly!r} needs {room} and the model names none; take one of {known}")
        return found

    def dump(self) -> dict[str, Any]:
        """Plain mappings that `parse` reads back."""
        parts = {key: part for key in _ROOMS if (part := getattr(self, key)) is not None}
        told: dict[str, Any] = {key: _described(part) for key, part in parts.items()}
        told |= {"connector": None} if self.vision is not None and self.connector is None else {}
        if self.heads:
            told["heads"] = {name: _described(head) for name, head in self.heads.items()}
        told |= {"features": self.features} if self.features is not None else {}
        told |= {"mosaic": dump(self.mosaic)} if self.mosaic is not None else {}
        return told | ({"assembly": self.assembly} if self.assembly != "causal" else {})


def _described(part: Spec) -> dict[str, Any]:
    return {"name": part.name, **dump(part.settings)}
