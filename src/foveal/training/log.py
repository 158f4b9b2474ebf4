"""What a run tells: a line of JSON for the record, TensorBoard when chosen, and a progress bar for who watches."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveal.core.errors import InputError

QUIET_SECONDS = 30.0  # between lines where nobody watches a bar


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The mean over the steps since the last entry, as `log.jsonl` holds it.

    `loss` in nats a counted item, `seconds` of training so far, `tokens` and `examples` a second; `done` is the
    fraction of the stage that lies behind, `left` the seconds that the rest of it will take.
    """

    step: int
    stage: str
    loss: float
    rate: float
    gradient: float
    seconds: float
    tokens: float
    examples: float
    done: float
    left: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Plain JSON."""
        numbers = {
            "loss": self.loss,
            **{_field(name): value for name, value in self.parts.items()},
            "learning_rate": self.rate,
            "gradient_norm": self.gradient,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens, 1),
            "examples_per_second": round(self.examples, 1),
        }
        return {"step": self.step, "stage": self.stage, **numbers}


def _field(part: str) -> str:
    """`loss_NAME` for the part of a loss; what is none says so by its beginning."""
    return part if part.startswith(("prior_", "accuracy_", "codes_", "tokens_")) else f"loss_{part}"


class Log:
    """Writes entries to `folder/log.jsonl`; on the main process alone (`silent` elsewhere)."""

    def __init__(self, folder: Path, *, from_step: int = 0, tensorboard: bool = False, silent: bool = False) -> None:
        self.silent, self.console = silent, Console(stderr=True, emoji=False)
        self.path, self.file, self.board = folder / "log.jsonl", None, None
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.stage, self.told = "", time.monotonic()
        if silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _forget(self.path, after=from_step)
        self.file: IO[str] | None = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        if tensorboard:
            self.board = _board(folder / "tensorboard", from_step)

    def __enter__(self) -> "Log":
        if not self.silent and self.console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[told]}"))
            self.bar = Progress(*columns, TimeElapsedColumn(), console=self.console)
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.board is not None:
            self.board.close()
        if self.file is not None:
            self.file.close()

    def say(self, line: str) -> None:
        """One line for who watches."""
        if not self.silent:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def write(self, entry: Entry) -> None:
        """Keep an entry, and show it."""
        if self.file is None:
            return
        row = entry.row()
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, entry.step)
        self._show(entry)

    def _show(self, entry: Entry) -> None:
        told = f"loss {entry.loss:.3f}  {entry.tokens:,.0f} tokens/s  {_clock(entry.left)} left"
        if self.bar is not None:
            if entry.stage != self.stage or self.task is None:
                self.stage, self.task = entry.stage, self.bar.add_task(entry.stage, total=1.0, told="")
            self.bar.update(self.task, completed=min(1.0, entry.done), told=told)
        elif time.monotonic() - self.told > QUIET_SECONDS:
            self.told = time.monotonic()
            self.say(f"{entry.stage}: step {entry.step}, {entry.done:.0%}, {told}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _forget(path: Path, *, after: int) -> None:
    """Drop entries after a step: a resumed run writes them again."""
    if not path.exists():
        return
    if not after:  # whatever it holds
        path.unlink()
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    steps = [_step(path, number, line, last=len(lines)) for number, line in enumerate(lines, 1)]
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= after]
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(kept), encoding="utf-8")
    fresh.replace(path)


def _step(path: Path, number: int, line: str, *, last: int) -> int | None:
    """The step of a line; None for a last one that was not written to its end.

    Raises InputError for a damaged line before the last.
    """
    try:
        step = json.loads(line)["step"]
        if isinstance(step, int) and line.endswith("\n"):
            return step
    except (ValueError, KeyError, TypeError):
        pass
    if number == last:
        return None
    raise InputError(f"{path}:{number} is damaged: {line.strip()[:40]!r}; remove this line, or begin anew with --fresh")


def _board(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard is not installed; pip install 'foveal[logs]', or leave it off") from None
    return SummaryWriter(str(folder), purge_step=from_step + 1)  # those after it are written again
