"""How commands show what they found: a table for people, JSON for programs, a bar while it takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 240  # characters


def console(*, quiet: bool = False) -> "Console":
    """Standard output, or standard error where standard output is kept for JSON; a file or a pipe takes wide tables.

    Text is shown as it is: what looks like Rich's markup or like the name of an emoji may be a user's.
    """
    import os

    from rich.console import Console

    made = Console(stderr=quiet, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


def print_json(row: Any) -> None:
    """One JSON value on standard output."""
    import json

    print(json.dumps(row, indent=1, ensure_ascii=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> "Table":
    """A plain table; the first column and those named in `left` are text, the others numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place == 0 or head in left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def bar(at: "Console", what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields what is called with the number of things just done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=at, transient=True, disable=not at.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)
