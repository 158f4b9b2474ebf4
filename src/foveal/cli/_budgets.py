"""`foveal eval --budget`: what is left of a run's answers when it may read only so many visual tokens."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveal.cli._evaluate import Told, Wanted, ask, asked_of
from foveal.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


def budgets(wanted: Wanted, spendings: Sequence[tuple[str, int]], *, progress: Told) -> dict[str, Any]:
    """Accuracy of every strategy at every budget, beside all tokens, as plain data.

    `flips` is the share of answers that are others than with all tokens. Raises InputError for questions before
    which solved ones are to stand.
    """
    from foveal.cli._runs import open_run

    if wanted.shots:
        raise InputError(f"--shots {wanted.shots} with --budget: a budget is scored on single questions; leave one out")
    loaded = open_run(wanted.run)
    asked = asked_of(loaded, wanted)
    whole, seconds = _timed(loaded, asked, wanted, progress, "all tokens")
    rows = [{"strategy": "all", "budget": None, **_scored(asked, whole, whole), "seconds": seconds}]
    for strategy, budget in spendings:
        own = replace(wanted, budget=budget, strategy=strategy)
        said, seconds = _timed(loaded, asked, own, progress, f"{strategy} {budget}")
        row = _scored(asked, said, whole)
        rows.append({"strategy": strategy, "budget": budget, **row, "seconds": seconds})
    return {"questions": len(asked), "budgets": rows}


def _timed(loaded: Any, asked: Any, wanted: Wanted, progress: Told, what: str) -> tuple[list[str], float]:
    started = time.perf_counter()
    said = ask(loaded, asked, wanted, progress, what)
    return said, round(time.perf_counter() - started, 2)


def _scored(asked: Any, said: Sequence[str], whole: Sequence[str]) -> dict[str, Any]:
    from foveal.evaluation.score import score

    found = score(asked, said)
    return {
        "exact_match": round(found.exact_match.value, 6),
        "interval": [round(end, 6) for end in (found.exact_match.low, found.exact_match.high)],
        "mean_over_kinds": round(found.mean_over_kinds.value, 6),
        "kinds": {kind: round(rate.value, 6) for kind, rate in found.kinds.items()},
        "flips": round(sum(a != b for a, b in zip(said, whole, strict=True)) / max(1, len(asked)), 6),
    }


def show(console: "Console", told: dict[str, Any]) -> None:
    """A line for each strategy and budget."""
    from foveal.cli import _show

    kinds = list(told["budgets"][0]["kinds"])
    lines = [
        [
            row["strategy"],
            "all" if row["budget"] is None else str(row["budget"]),
            *(f"{100 * row[name]:.1f}%" for name in ("exact_match", "mean_over_kinds", "flips")),
            *(f"{100 * row['kinds'][kind]:.0f}" for kind in kinds),
            f"{row['seconds']:.1f} s",
        ]
        for row in told["budgets"]
    ]
    heads = ["strategy", "budget", "exact", "mean over kinds", "flips", *kinds, "time"]
    console.print(_show.table(heads, lines, left=["strategy"]))
    console.print(
        f"\n{told['questions']:,} questions; flips: answers that are others than with all tokens", style="dim"
    )
