"""Configs are frozen dataclasses: out of plain mappings strictly, and back into them."""

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from foveal.core.errors import InputError, unknown
from foveal.core.parsing import from_yaml

T = TypeVar("T")


def parse(kind: type[T], given: Mapping[str, Any], *, where: str) -> T:
    """The dataclass `kind` out of a mapping; raises InputError for an unknown or missing key and a wrong type."""
    hints = get_type_hints(kind)
    wanted = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in wanted:
            raise unknown(f"key in {where}:", str(key), wanted)
    values = {}
    for name, entry in wanted.items():
        if name in given:
            values[name] = convert(hints[name], given[name], where=f"{where}.{name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise InputError(f"{where} lacks {name!r}; give it a value of type {_title(hints[name])}")
    return kind(**values)


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as the annotation `hint` wants it; raises InputError that names the place, the value and the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _any_of(arguments, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise unknown(f"value of {where}:", str(value), (str(choice) for choice in arguments))
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where)
        return parse(hint, value, where=where)
    if origin is tuple:
        return _tuple(arguments, hint, value, where=where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where)
        return {key: convert(arguments[1], entry, where=f"{where}.{key}") for key, entry in value.items()}
    return _scalar(hint, value, where=where)


def _any_of(choices: tuple[Any, ...], value: Any, *, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    for choice in rest[:-1]:
        try:
            return convert(choice, value, where=where)
        except InputError:
            continue
    return convert(rest[-1], value, where=where)


def _tuple(arguments: tuple[Any, ...], hint: Any, value: Any, *, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(hint, value, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(arguments[0], entry, where=f"{where}[{i}]") for i, entry in enumerate(value))
    if len(arguments) != len(value):
        raise InputError(f"{where} has {len(value)} entries; give {len(arguments)}")
    return tuple(
        convert(kind, entry, where=f"{where}[{i}]")
        for i, (kind, entry) in enumerate(zip(arguments, value, strict=True))
    )


def _scalar(hint: Any, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            raise _wrong(hint, value, where) from None
    if (hint is int and isinstance(value, bool)) or not isinstance(value, hint):
        raise _wrong(hint, value, where)
    return value


def _wrong(hint: Any, value: Any, where: str) -> InputError:
    return InputError(f"{where} is {value!r}; give it a value of type {_title(hint)}")


def _title(hint: Any) -> str:
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")  # type: ignore[return-value]


def dump(config: Any) -> Any:
    """Plain dicts, lists and scalars, as YAML and JSON hold them; `parse` reads them back.

    A field that `later` made is left out while it has its default: what is known by its config keeps its name.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {entry: getattr(config, entry.name) for entry in dataclasses.fields(config)}
        return {entry.name: dump(value) for entry, value in values.items() if not _unsaid(entry, value)}
    if isinstance(config, Mapping):
        return {key: dump(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [dump(entry) for entry in config]
    return config


def later(default: Any) -> Any:
    """A field that a config gets when runs and data sets are there that were made without it."""
    return dataclasses.field(default=default, metadata={"later": True})


def _unsaid(entry: dataclasses.Field[Any], value: Any) -> bool:
    return bool(entry.metadata.get("later")) and value == entry.default


def override(given: Mapping[str, Any], assignments: Iterable[str], roots: Iterable[str] = ()) -> dict[str, Any]:
    """A deep copy of `given` with `a.b.0.c=value` assignments applied (values are YAML).

    Mappings on the way that are not there are begun; the outermost only under the names of `roots`.
    """
    import yaml

    result, known = dump(given), {*given, *roots}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(f"{assignment!r} is not an assignment; write key=value, for example training.steps=100")
        try:
            value = from_yaml(text)
        except yaml.YAMLError:
            raise InputError(f"the value of {path!r} is not YAML: {text!r}") from None
        root, *inner = path.split(".")
        if inner and root not in known:
            raise unknown("key", root, sorted(known))
        _assign(result, path, value)
    return result


def _assign(tree: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for depth, key in enumerate(parents):
        tree = _child(tree, key, ".".join(parents[: depth + 1]))
    if isinstance(tree, list):
        tree[_index(tree, last, path)] = value
    elif isinstance(tree, dict):
        tree[last] = value
    else:
        raise InputError(f"{path!r} goes into a plain value; its parent holds {tree!r}")


def _child(tree: Any, key: str, path: str) -> Any:
    """What lies under a key, an empty mapping put there where nothing does."""
    place: Any = _index(tree, key, path) if isinstance(tree, list) else key
    if not isinstance(tree, dict | list):
        raise InputError(f"{path!r} goes into a plain value; its parent holds {tree!r}")
    if isinstance(tree, dict) and tree.get(place) is None:
        tree[place] = {}
    return tree[place]


def _index(tree: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(tree):
        raise InputError(f"{path!r} wants an index from 0 to {len(tree) - 1}, not {key!r}")
    return int(key)
