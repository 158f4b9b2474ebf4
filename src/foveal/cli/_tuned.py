"""What a search found: its trials best first, `results.json`, and the command that trains the best again."""

import hashlib
import json
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _trial as known
from foveal.cli import _tuning
from foveal.cli._comparison import short, within
from foveal.cli._held_out import LOSS, content, scored
from foveal.cli._trial import BEGUN, BROKEN, FAILED, STOPPED, Task
from foveal.cli._tuning import Trial, Tuning
from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.evaluation.cells import DONE, Record

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
SHOWN = 12  # trials of the table that is drawn while they go on
EVERY = 1.0  # seconds between two looks at what has changed
_ORDER = (DONE, STOPPED, BEGUN, FAILED, BROKEN, "")
_PLAIN = (LOSS, "psnr")  # metrics that are no share


class Found:
    """The trials of a search as they stand, best first."""

    def __init__(self, wanted: Tuning, trials: Sequence[Trial], task: Task) -> None:
        self.wanted, self.task = wanted, task
        self.trials = {trial.number: trial for trial in trials}
        self.rows = sorted((_row(trial, task) for trial in trials), key=self._place)
        self.test: dict[str, Any] | None = None

    def _place(self, row: Mapping[str, Any]) -> tuple[int, int, float, int]:
        state, score = row["state"], row["score"]
        looks = 0 if state == DONE else -len(row["looks"])
        return _ORDER.index(state), looks, self._worse(score), row["number"]

    def _worse(self, score: float | None) -> float:
        return 0.0 if score is None else score if self.wanted.metric == LOSS else -score

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial that came to its end; None where none did."""
        return self.rows[0] if self.rows[0]["state"] == DONE else None

    def check_best(self) -> None:
        """Raise InputError where no trial came to its end."""
        if self.best is None:
            told = next((row["error"] for row in self.rows if row["error"]), "none was begun")
            raise InputError(f"no trial came to its end: {told}")

    def command(self, settings: Mapping[str, Any]) -> str:
        """What trains again with what was drawn for a trial, as it is typed."""
        named, told = self.wanted.recipe, _tuning.assignments(self.wanted, settings)
        recipe = named if isinstance(named, str) else self.task.shown(self.task.out / "recipe.yaml")
        return shlex.join(["foveal", "train", recipe, *told])

    @property
    def note(self) -> str:
        """What the best score is, and is not."""
        count, split = sum(row["score"] is not None for row in self.rows), self.wanted.evaluation.split
        return f"it was chosen as the best of {count} on {split}: its score there is better than it will be elsewhere"

    def score_test(self, progress: Any) -> None:
        """Score the best on what chose nothing, if that is wanted and was not done before."""
        if (held := self.wanted.test) is None or self.best is None:
            return
        trial = self.trials[self.best["number"]]
        judged = [trial.key, dump(held), content(trial.recipe, self.task.folder, held)]
        key = hashlib.sha256(json.dumps(judged).encode()).hexdigest()[:16]
        record = Record.open(self.task.out / "test.json", key=key)
        if not record.begun:
            given: Any = {"folder": self.task.folder, "recipe": trial.recipe, "progress": progress}
            record.put(key=key, test=scored(self.task.run(trial), held, self.wanted.metric, **given))
        self.test = {"split": held.split, "trial": trial.number, **record.told["test"]}

    def plain(self) -> dict[str, Any]:
        """All of it as JSON tells it."""
        from importlib.metadata import version

        from foveal.cli._cost import made

        how = made()
        how["versions"]["ray"] = version("ray")
        best = None
        if self.best is not None:
            best = {key: self.best[key] for key in ("number", "settings", "score", "interval", "run")}
            best["command"] = self.command(best["settings"])
        return {
            "schema": SCHEMA,
            "tuning": dump(self.wanted),
            "made": {**how, "threads": self.task.threads},
            "metric": self.wanted.metric,
            "best": best,
            "test": self.test,
            "note": None if best is None else self.note,
            "trials": self.rows,
        }

    def write(self) -> Path:
        """Write `results.json`, and a recipe that has no file of its own; where the first is."""
        import yaml

        place = self.task.out / "results.json"
        if not isinstance(self.wanted.recipe, str):
            told = yaml.safe_dump(dump(self.wanted.recipe), sort_keys=False)
            (self.task.out / "recipe.yaml").write_text(told, encoding="utf-8")
        place.write_text(json.dumps(self.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return place


def _row(trial: Trial, task: Task) -> dict[str, Any]:
    """What is known of a trial."""
    record = task.record(trial)
    looks, ended, run = known.looked(record), record.told.get("training", {}), task.run(trial)
    last = looks[-1] if looks else {}
    judged = record.told.get("evaluation") or last
    state = known.state(record)
    return {
        "number": trial.number,
        "settings": dict(trial.settings),
        "state": state,
        "error": ended.get("error"),
        "score": judged.get("score"),
        "interval": judged.get("interval"),
        "steps": ended.get("steps", _steps(run) if state == BEGUN else last.get("steps")),
        "seconds": ended.get("seconds", last.get("seconds")),
        "loss": ended.get("loss"),
        "looks": looks,
        "evaluation": record.told.get("evaluation", {}).get("told"),
        "run": task.shown(run),
    }


def _steps(run: Path) -> int | None:
    """The last step that a training's log tells of."""
    file = run / "log.jsonl"
    whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n") if file.is_file() else ("", "", "")
    return json.loads(whole.splitlines()[-1])["step"] if whole else None


def value(metric: str, score: float | None) -> str:
    """A score as a table shows it."""
    if score is None:
        return ""
    return f"{score:.4g}" if metric in _PLAIN else f"{100 * score:.1f}%"


def table(found: Found, most: int | None = None) -> Any:
    """A line for each trial, at most so many."""
    from foveal.cli import _show

    metric, keys = found.wanted.metric, list(found.wanted.search)
    heads = ["trial", *map(within, keys), metric.replace("_", " "), "95%", "steps", "seconds", "state"]
    lines = []
    for row in found.rows[:most]:
        span = "{:.1f}-{:.1f}".format(*(100 * end for end in row["interval"])) if row["interval"] else ""
        steps = "" if row["steps"] is None else f"{row['steps']:,}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:,.0f}"
        own = [short(row["settings"][key]) for key in keys]
        lines.append([str(row["number"]), *own, value(metric, row["score"]), span, steps, seconds, _state(row)])
    return _show.table(heads, lines, left=["state"])


def _state(row: Mapping[str, Any]) -> str:
    at = f" at {row['looks'][-1]['share']:.0%}" if row["looks"] and row["state"] in (STOPPED, BEGUN) else ""
    return f"{row['state'] or 'waits'}{at}"


def show(console: "Console", found: Found, results: Path) -> None:
    """The table, what failed, and what to do with the best, if any came to its end."""
    console.print(table(found))
    for row in found.rows:
        if row["error"]:
            console.print(f"trial {row['number']} {row['state']}: {row['error']}", style="dim")
    if found.best is not None:
        _show_best(console, found, found.best)
    console.print(f"results: {found.task.shown(results)}")


def _show_best(console: "Console", found: Found, best: Mapping[str, Any]) -> None:
    metric = found.wanted.metric
    console.print(f"\nbest: trial {best['number']}, {metric} {value(metric, best['score'])}, in {best['run']}")
    if found.test is not None:
        told = value(metric, found.test["score"])
        console.print(f"once on {found.test['split']}, which chose nothing: {metric} {told}")
    console.print(found.note, style="dim")
    console.print(f"train it again: {found.command(best['settings'])}")


@contextmanager
def watched(console: "Console", found: Callable[[], Found]) -> Iterator[None]:
    """Meanwhile tell how trials stand: a table on a terminal, elsewhere a line whenever one has come further."""
    if console.is_terminal:
        from rich.live import Live

        with Live(get_renderable=lambda: table(found(), SHOWN), console=console, refresh_per_second=1, transient=True):
            yield
        return
    ended, before = threading.Event(), _said(found())

    def tell() -> None:
        while not ended.wait(EVERY):
            say()

    def say() -> None:
        for line in _said(found()):
            if line not in before:
                before.append(line)
                console.print(line)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        say()


def _said(found: Found) -> list[str]:
    """All that can be said of trials now, in lines that stay the same until there is more to say."""
    metric, lines = found.wanted.metric, []
    for row in sorted(found.rows, key=lambda row: row["number"]):
        name = f"trial {row['number']}"
        if row["state"]:
            lines.append(f"{name}: {found.trials[row['number']].told}")
        for look in row["looks"]:
            lines.append(f"{name}: {metric} {value(metric, look['score'])} at {look['share']:.0%} of its last stage")
        if row["state"] == DONE:
            lines.append(f"{name} is done: {metric} {value(metric, row['score'])}")
        elif row["state"] == STOPPED:
            lines.append(f"{name} is stopped: others did better")
        elif row["error"]:
            lines.append(f"{name} has failed: {row['error']}")
    return lines
