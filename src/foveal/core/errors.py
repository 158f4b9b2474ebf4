"""The one exception that means: the input is wrong, and here is the way out."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line: what, where, and what to do (the command line exits with 2)."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not among `known`, with the nearest one as a hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return InputError(f"unknown {kind} {name!r}; {hint}")
