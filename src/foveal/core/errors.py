"""The one exception that means: the input is wrong, and here is the way out."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line: what, where, and what to do (the command line exits with 2)."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not among `known`, with the nearest one as a hint."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}?" if near is not None else f"known: {', '.join(names) or 'none'}"
    return InputError(f"unknown {kind} {name!r}; {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant, if one is near; in capitals or not."""
    folded = {one.casefold(): one for one in known}
    return next((folded[one] for one in difflib.get_close_matches(name.casefold(), list(folded), n=1)), None)


def yaml_fault(error: Exception) -> str:
    """What is wrong with a text that is not YAML, and where, in one line."""
    mark, first = getattr(error, "problem_mark", None), str(error).splitlines()[0]
    if mark is None:
        return first
    return f"{getattr(error, 'problem', None) or first} (line {mark.line + 1}, column {mark.column + 1})"
