"""Components of outside packages, which come by entry points: what they lack is told before they are used."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from foveal.core.errors import InputError

_PROTOCOLS = {
    "vision": "VisionEncoder",
    "connectors": "Connector",
    "relevance.strategies": "Allocator",
    "fusion": "Fusion",
    "language": "LanguageModel",
}


@cache  # what is installed is read from hundreds of files
def outside(room: str) -> dict[str, EntryPoint]:
    """The entry points of a room, by the names of their components."""
    return {entry.name: entry for entry in entry_points(group=f"foveal.{room}")}


def known_as(component: Any) -> str:
    """The name that a component is asked for by: of ours that of its file, of an outside package its entry point's."""
    kinds = type(component).__mro__
    file = kinds[0].__module__
    for entry in () if file.startswith("foveal.") else (one for room in _PROTOCOLS for one in outside(room).values()):
        if getattr(sys.modules.get(entry.module), class_name(entry.name), None) in kinds:
            return entry.name
    return file.rpartition(".")[2]


def taken(entry: EntryPoint) -> InputError:
    """The error of an entry point that is called as a component of ours."""
    return InputError(
        f"{_told(entry)} bears the name of a component of Foveal's own; uninstall that package, or have it name the "
        "entry point otherwise"
    )


def class_name(name: str) -> str:
    """`pixel_shuffle` to `PixelShuffle`."""
    return "".join(part.capitalize() for part in name.split("_"))


def imported(entry: EntryPoint) -> ModuleType:
    """The module of an entry point. Raises InputError where its import fails, and for what is no module."""
    try:
        found = entry.load()
    except Exception as error:  # whatever a stranger's file does when it is read
        why = str(error).splitlines()[0] if str(error) else "it tells no more"
        raise InputError(
            f"{_told(entry)} cannot be imported: {type(error).__name__}: {why}; mend that package, or uninstall it"
        ) from error
    if not isinstance(found, ModuleType):
        raise InputError(
            f"{_told(entry)} is a {type(found).__name__} and no module; let the entry point name the component's "
            f"file, as in {entry.name} = {entry.module!r}"
        )
    return found


def settings_of(entry: EntryPoint, found: ModuleType) -> type:
    """The Config of a component; raises InputError where its module has none that is a frozen dataclass."""
    config = getattr(found, "Config", None)
    if not isinstance(config, type) or not is_dataclass(config) or not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        has = "has no Config" if config is None else "has a Config that is no frozen dataclass"
        raise InputError(
            f"{_told(entry)} {has}; give it one: @dataclass(frozen=True, kw_only=True) class Config, with the settings "
            "of the component"
        )
    return config


def class_of(entry: EntryPoint, found: ModuleType) -> type:
    """The class of a component; raises InputError where its module has none of that name."""
    component, wanted = getattr(found, class_name(entry.name), None), class_name(entry.name)
    if not isinstance(component, type):
        raise InputError(f"{_told(entry)} has no class {wanted}; call its class so, by the name of the entry point")
    return component


def function_of(entry: EntryPoint, found: ModuleType) -> Any:
    """The function of a component that is one; raises InputError where its module has none of that name."""
    function = getattr(found, entry.name, None)
    if not callable(function):
        raise InputError(f"{_told(entry)} has no function {entry.name}; call it so, by the name of the entry point")
    return function


def made(room: str, entry: EntryPoint, component: type, given: Mapping[str, Any]) -> Any:
    """A component of what its Config and the assembly say.

    Raises InputError where its constructor takes other arguments, and where it lacks what the room's protocol names.
    """
    try:
        inspect.signature(component).bind(**given)
    except TypeError as error:
        raise InputError(
            f"{_told(entry)} is made of {', '.join(given)}, and the constructor of {component.__name__} disagrees: "
            f"{error}; let it take the fields of its Config and what {room} are given beside"
        ) from None
    part = component(**given)
    if lacks := _lacks(part, _PROTOCOLS.get(room)):
        raise InputError(
            f"{_told(entry)} is no {_PROTOCOLS[room]}: {component.__name__} lacks {', '.join(lacks)}; give it what "
            f"foveal.core.interfaces.{_PROTOCOLS[room]} names"
        )
    return part


def _lacks(part: Any, protocol: str | None) -> list[str]:
    if protocol is None:
        return []
    kinds = getattr(importlib.import_module("foveal.core.interfaces"), protocol).__mro__
    own = [kind for kind in kinds if getattr(kind, "_is_protocol", False) and kind.__name__ != "Protocol"]
    names = {name: None for kind in own for name in (*getattr(kind, "__annotations__", {}), *vars(kind))}
    public = [name for name in names if not name.startswith("_")]
    missing = [name for name in public if not hasattr(part, name)]
    module = importlib.import_module("torch.nn").Module  # one without a forward can be called, and says nothing
    calls = type(part).forward is not module.forward if isinstance(part, module) else callable(part)
    return missing if calls or "__call__" not in names else [*missing, "forward"]


def _told(entry: EntryPoint) -> str:
    package = "" if entry.dist is None else f" of {entry.dist.name}"
    return f"{entry.group.removeprefix('foveal.')}.{entry.name}, which is {entry.value}{package},"
