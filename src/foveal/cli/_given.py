"""What requests to the web servers of commands hold, read as data: settings, numbers, pictures in letters."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from foveal.core.errors import InputError

MOST_PIXELS = 50_000_000


def settings(body: bytes, way_out: str) -> dict[str, Any]:
    """The object that a request's JSON holds; raises InputError, with the way out, for any other."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError(f"the request is not JSON; {way_out}") from None
    if not isinstance(given, dict):
        raise InputError(f"the request holds no settings; {way_out}")
    return given


def decoded(letters: str) -> bytes | None:
    """The bytes that base64 letters stand for; None for what is none."""
    try:
        return base64.b64decode(letters, validate=True)
    except (binascii.Error, ValueError):
        return None


def number(
    given: Mapping[str, Any], name: str, default: Any, least: int | float, most: int | float, *, whole: bool = True
) -> Any:
    """A setting as a number, the default where there is none; raises InputError for any out of its range."""
    value = given.get(name)
    if value is None:
        return default
    kind = int if whole else float
    if isinstance(value, bool) or not isinstance(value, int | kind) or not least <= value <= most:
        told = f"{value:.80}" if isinstance(value, str) else f"{value!r:.80}"
        raise InputError(f"{name} of {told}; give {'a whole' if whole else 'a'} number from {least:g} to {most:g}")
    return kind(value)
