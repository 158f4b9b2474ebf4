"""`foveal eval --budget`: what is left of a run's answers when it may read only so many visual tokens."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from foveal.cli._evaluate import Told, Wanted, ask, asked_of, gallery_of
from foveal.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


def budgets(wanted: Wanted, spendings: Sequence[tuple[str, int]], *, progress: Told) -> dict[str, Any]:
    """Accuracy of every strategy at every budget, beside all tokens, as plain data; one that cannot be says why.

    `flips` is the share of answers that are others than with all tokens, `tokens` how many of a picture a layer of the
    language model reads, on average; `encoding` are the seconds that all pictures took once, which those of a strategy
    that encodes them otherwise hold again. Raises InputError for questions before which solved ones are to stand.
    """
    from foveal.cli._runs import open_run
    from foveal.models.budget import lacking

    if wanted.shots:
        raise InputError(f"--shots {wanted.shots} with --budget: a budget is scored on single questions; leave one out")
    loaded = open_run(wanted.run)
    asked = asked_of(loaded, wanted)
    reasons = {pair: lacking(loaded.model, pair[1], pair[0]) for pair in spendings}
    gallery, encoding = _encoded(loaded, asked, wanted, [pair for pair in spendings if reasons[pair] is None])
    told = partial(_timed, loaded, asked, gallery=gallery, progress=progress)
    whole, seconds = told(wanted, "all tokens")
    rows = [{"strategy": "all", "budget": None, **_scored(asked, whole, whole), "seconds": seconds}]
    rows[0]["tokens"] = _tokens(loaded, wanted)
    for strategy, budget in spendings:
        if (reason := reasons[strategy, budget]) is not None:
            rows.append({"strategy": strategy, "budget": budget, "refused": reason})
            continue
        own = replace(wanted, budget=budget, strategy=strategy)
        said, seconds = told(own, f"{strategy} {budget}")
        row = {**_scored(asked, said, whole), "seconds": seconds, "tokens": _tokens(loaded, own)}
        rows.append({"strategy": strategy, "budget": budget, **row})
    return {"questions": len(asked), "encoding": encoding, "budgets": rows}


def _encoded(loaded: Any, asked: Any, wanted: Wanted, spendings: Sequence[tuple[str, int]]) -> tuple[Any, float]:
    """Every picture, seen once with all that some strategy needs of it, and how long that took."""
    from foveal.models import seats
    from foveal.models.budget import allocated

    needs = {need for name, budget in spendings for need in seats.needs(allocated(loaded.model, budget, name))}
    gallery, started = gallery_of(loaded, tuple(sorted(needs))), time.perf_counter()
    if gallery is not None:
        gallery.fill((image for question in asked for image in question.example.images), size=wanted.batch)
    return gallery, round(time.perf_counter() - started, 2)


def _timed(
    loaded: Any, asked: Any, wanted: Wanted, what: str, *, gallery: Any, progress: Told
) -> tuple[list[str], float]:
    started = time.perf_counter()
    said = ask(loaded, asked, wanted, progress, what, gallery)
    return said, round(time.perf_counter() - started, 2)


def _tokens(loaded: Any, wanted: Wanted) -> float | None:
    """How many visual tokens of a picture each layer reads, on average; None where pictures differ in how many."""
    from foveal.models.budget import budgeted

    image = loaded.processor.config.image
    if loaded.model.vision is None or image.tiling is not None:
        return None
    by_layer = budgeted(loaded.model, wanted.budget, wanted.strategy).plan_by_layer([image.grid])
    return round(sum(by_layer) / len(by_layer), 2)


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

    rows = told["budgets"]
    kinds = list(rows[0]["kinds"])
    heads = ["strategy", "budget", "exact", "mean over kinds", "flips", *kinds, "tokens a layer", "time"]
    lines = [_line(row, kinds, len(heads)) for row in rows]
    console.print(_show.table(heads, lines, left=["strategy"]))
    console.print(
        f"\n{told['questions']:,} questions; flips: answers that are others than with all tokens; pictures were "
        f"encoded once, in {told['encoding']:.1f} s beside these times",
        style="dim",
    )
    for reason in dict.fromkeys(row["refused"] for row in rows if "refused" in row):
        console.print(f"n/a: {reason}", style="dim")


def _line(row: dict[str, Any], kinds: Sequence[str], cells: int) -> list[str]:
    first = [row["strategy"], "all" if row["budget"] is None else str(row["budget"])]
    if "refused" in row:
        return [*first, *["n/a"] * (cells - 2)]
    return [
        *first,
        *(f"{100 * row[name]:.1f}%" for name in ("exact_match", "mean_over_kinds", "flips")),
        *(f"{100 * row['kinds'][kind]:.0f}" for kind in kinds),
        "" if row["tokens"] is None else f"{row['tokens']:g}",
        f"{row['seconds']:.1f} s",
    ]
