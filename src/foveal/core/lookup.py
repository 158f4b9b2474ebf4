"""A folder is a registry: the file `connectors/mlp.py` is the connector `mlp`, and its class is `Mlp`."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

from foveal.core.config import parse
from foveal.core.errors import InputError, unknown
from foveal.core.outside import class_name as class_name
from foveal.core.outside import class_of, function_of, imported, made, outside, settings_of, taken


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A component by name, with its settings (an instance of the `Config` in its file)."""

    name: str
    settings: Any = field(hash=False)  # some hold mappings


def names(room: str) -> tuple[str, ...]:
    """The components of a room: its files, and what outside packages add by the entry point `foveal.ROOM`."""
    return tuple(sorted(_files(room) | outside(room).keys()))


def _files(room: str) -> set[str]:
    package = importlib.import_module(f"foveal.{room}")
    return {found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_")}


def _entry(room: str, name: str) -> EntryPoint | None:
    """The entry point of a component of an outside package; raises InputError for one called as a file of ours is."""
    entry = outside(room).get(name)
    if entry is not None and name in _files(room):
        raise taken(entry)
    return entry


def module(room: str, name: str) -> ModuleType:
    """The file of a component. Raises InputError for an unknown name, with the nearest one, and for an outside package
    that cannot be imported, or takes a name of ours.
    """
    if name not in names(room):
        raise unknown(f"component of {room}", name, names(room))
    entry = _entry(room, name)
    return importlib.import_module(f"foveal.{room}.{name}") if entry is None else imported(entry)


def kind(room: str, name: str) -> type:
    """The class of a component; takes the errors of `module`, and raises InputError where an outside file lacks it."""
    found, entry = module(room, name), _entry(room, name)
    return getattr(found, class_name(name)) if entry is None else class_of(entry, found)


def function(room: str, name: str) -> Any:
    """The function of a component that is one; takes the errors of `kind`."""
    found, entry = module(room, name), _entry(room, name)
    return getattr(found, name) if entry is None else function_of(entry, found)


def spec(room: str, settings: object) -> Spec:
    """A component's specification out of `{name: mlp, depth: 2}` (or just its name), checked against its Config.

    Raises InputError for what is neither, for an unknown name, and for settings that the component has not.
    """
    if not isinstance(settings, str | Mapping):
        raise InputError(f"{room}: {settings!r} is no component; give a name, or a mapping with its name and settings")
    given = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise InputError(f"{room}: no component named; give one of {', '.join(names(room))} as 'name'")
    also = getattr(importlib.import_module(f"foveal.{room}"), "also", None)  # other names that a room's are known by
    if also is not None and (meant := also(name)) is not None:
        name, given = meant[0], {**meant[1], **given}
    found, entry = module(room, name), _entry(room, name)
    config = found.Config if entry is None else settings_of(entry, found)
    return Spec(name=name, settings=parse(config, given, where=f"{room}.{name}"))


def build(room: str, wanted: Spec, **at_assembly: Any) -> Any:
    """The component itself, from its settings and what only the assembly knows (widths).

    Raises InputError for one of an outside package that cannot be made of these, or is no component of the room.
    """
    component, origin = kind(room, wanted.name), _entry(room, wanted.name)
    settings = {entry.name: getattr(wanted.settings, entry.name) for entry in fields(wanted.settings)}
    given = {**settings, **at_assembly}
    return component(**given) if origin is None else made(room, origin, component, given)
