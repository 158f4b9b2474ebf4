"""How commands show what they found: a table for people, JSON for programs, a bar while it takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

_WIDE = 240  # characters
_APART = 2  # between two columns


def console(*, quiet: bool = False) -> "Console":
    """Standard output, or standard error where standard output is kept for JSON; a file or a pipe takes wide tables.

    Text is shown as it is: what looks like Rich's markup or like the name of an emoji may be a user's.
    """
    import os

    from rich.console import Console

    made = Console(stderr=quiet, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    if made.width < 1:  # COLUMNS=0, as some hosts without a terminal say
        made.width = _WIDE
    return made


def print_json(row: Any) -> None:
    """One JSON value on standard output, in letters that its encoding has; a number that is none (NaN) is null."""
    import json
    import sys

    whole = "utf" in (sys.stdout.encoding or "utf-8").lower()
    print(json.dumps(_finite(row), indent=1, ensure_ascii=not whole, allow_nan=False))


def _finite(value: Any) -> Any:
    import math

    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A plain table; where the terminal is too narrow for it, some columns stand below others, after its `keys` again.

    No cell is ever cut: a number without its end is another number.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str]
    keys: int

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator[Any]:
        """What Rich prints."""
        for place, band in enumerate(self._bands(options.max_width)):
            if place:
                yield ""
            made = self._table(band)
            yield from console.render(made, options.update(width=max(self._width(band), options.max_width)))

    def _bands(self, width: int) -> list[list[int]]:
        """The columns of each part that fits into the width, or holds one column beside the keys."""
        keys = list(range(self.keys))
        bands = [list(keys)]
        for column in range(self.keys, len(self.heads)):
            if len(bands[-1]) > len(keys) and self._width([*bands[-1], column]) > width:
                bands.append(list(keys))
            bands[-1].append(column)
        return bands

    def _width(self, band: Sequence[int]) -> int:
        from rich.cells import cell_len

        cells = [[self.heads[column], *(row[column] for row in self.rows)] for column in band]
        return sum(max(map(cell_len, column)) for column in cells) + _APART * (len(band) - 1)

    def _table(self, band: Sequence[int]) -> "Table":
        from rich.table import Table

        made = Table(box=None, pad_edge=False, header_style="bold")
        for column in band:
            head = self.heads[column]
            justify: Any = "left" if column == 0 or head in self.left else "right"
            made.add_column(head, justify=justify, no_wrap=True)
        for row in self.rows:
            made.add_row(*(row[column] for column in band))
        return made


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = (), keys: int = 1) -> Columns:
    """A plain table: text in the first column and those named in `left`, numbers in the others; the first `keys` say
    what a row is about."""
    return Columns(heads=heads, rows=rows, left=left, keys=keys)


@contextmanager
def bar(at: "Console", what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields what is called with the number of things just done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=at, transient=True, disable=not at.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)


def no_bar(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """What takes the place of a bar where nobody watches."""
    return nullcontext(lambda number: None)
