"""Plain data with a reason beside some of it, and the YAML that says both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

WIDE = 1_000_000  # letters: no scalar is broken


@dataclass(frozen=True)
class Noted:
    """A value, and in one line why it is this one."""

    value: Any
    why: str


def plain(given: Any) -> Any:
    """The same without its reasons."""
    if isinstance(given, Noted):
        return plain(given.value)
    if isinstance(given, Mapping):
        return {key: plain(one) for key, one in given.items()}
    return [plain(one) for one in given] if isinstance(given, list | tuple) else given


def head(api: str, kind: str, name: str, namespace: str | None) -> dict[str, Any]:
    """The first lines of a document; without a namespace it goes where kubectl is."""
    space = {} if namespace is None else {"namespace": namespace}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, **space, "labels": labels(name)}}


def labels(name: str) -> dict[str, str]:
    """By what things of this name are found."""
    return {"app.kubernetes.io/name": "foveal", "app.kubernetes.io/instance": name}


def text(document: Mapping[str, Any]) -> str:
    """A document in YAML, each reason as a comment above what it is of."""
    return "".join(f"{line}\n" for line in _mapping(document))


def _mapping(given: Mapping[str, Any]) -> Iterator[str]:
    for key, noted in given.items():
        why, value = (noted.why, noted.value) if isinstance(noted, Noted) else ("", noted)
        if why:
            yield f"# {why}"
        if isinstance(value, str) and _lined(value):
            yield f"{_flat(key)}: |{'' if value.endswith(chr(10)) else '-'}"
            yield from (f"  {line}" for line in value.splitlines())
        elif not value or not isinstance(value, Mapping | list | tuple) or _short(value):
            yield f"{_flat(key)}: {_flat(plain(value))}"
        elif isinstance(value, Mapping):
            yield f"{_flat(key)}:"
            yield from (f"  {line}" for line in _mapping(value))
        else:
            yield f"{_flat(key)}:"
            for one in value:
                yield from (f"  {line}" for line in _item(one))


def _item(noted: Any) -> Iterator[str]:
    """One of a list."""
    why, value = (noted.why, noted.value) if isinstance(noted, Noted) else ("", noted)
    if why:
        yield f"# {why}"
    if not isinstance(value, Mapping) or not value:
        yield f"- {_flat(plain(value))}"
        return
    sign = "-"
    for line in _mapping(value):
        comes = line.startswith("#") and sign == "-"  # a comment before the first key stands above the dash
        yield line if comes else f"{sign} {line}"
        sign = sign if comes else " "


def _lined(value: str) -> bool:
    """Whether a text of several lines can be written as it is read."""
    lines = value.removesuffix("\n").split("\n")
    return len(lines) > 1 and value[:1] != " " and all(one.isascii() and one.isprintable() and one for one in lines)


def _short(value: Any) -> bool:
    """Whether a list is of words without reasons, each in one line."""
    if not isinstance(value, list | tuple) or any(isinstance(one, Noted | Mapping | list | tuple) for one in value):
        return False
    return all("\n" not in str(one) for one in value)


def _flat(value: Any) -> str:
    """A value in one line."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    return yaml.safe_dump(value, default_flow_style=True, default_style=style, width=WIDE).removesuffix("...\n").strip()
