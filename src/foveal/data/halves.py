"""Half characters: JSON may spell one half of a pair (`\\ud800`), which no tokenizer and no file of UTF-8 takes."""

import re
from collections.abc import Iterator
from typing import Any

from foveal.core.errors import InputError

SPELLED = re.compile(
    r"\\u[dD][89a-fA-F]|[\ud800-\udfff]"
)  # in a line: cheap to look for, and right for whole pairs too
_HALF = re.compile(r"[\ud800-\udfff]")


def refuse(row: Any, where: str) -> None:
    """Raises InputError with the field of a text, or of a name, that holds one half of a pair alone."""
    for name, half in _halves(row, ""):
        raise InputError(f"{where}: {name or 'it'} holds half a character ({half!a}); mend or remove that text")


def _halves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if half := _HALF.search(value):
            yield name, half[0]
    elif isinstance(value, dict):
        for key, inner in value.items():
            shown = key.encode("ascii", "backslashreplace").decode()
            yield from _halves(key, f"the name {shown!r}")
            yield from _halves(inner, f"{name}.{shown}" if name else shown)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _halves(inner, f"{name}[{place}]")
