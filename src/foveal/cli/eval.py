"""`foveal eval`: how well a run answers, beside what needs no picture."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foveal.cli import _budget, _sampling
from foveal.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.cli._evaluate import Evaluation, Wanted
    from foveal.relevance.pricing import Terms

NAMES = {"text_only": "text only", "majority": "majority", "question_majority": "same words"}
_OUT = typer.Option(
    None, "--out", "--results", help="Where drawings (one sheet, a .png) or found boxes (COCO results) are written."
)
_TEXT_ONLY = typer.Option(
    None, "--text-only", help="A run of the same recipe trained without images.", show_default="RUN/text_only"
)


def command(
    run: Path | None = typer.Option(None, "--run", help="A run or checkpoint directory.", show_default="starter model"),
    data: Path = typer.Option(..., "--data", help="A data set's directory, or one .jsonl file."),
    split: str = typer.Option("test", "--split", help="Which split, where --data is a directory."),
    limit: int | None = typer.Option(None, "--limit", help="Score the first so many questions.", show_default="all"),
    text_only: Path | None = _TEXT_ONLY,
    batch: int = typer.Option(64, "--batch", help="Questions answered together."),
    max_new_tokens: int = typer.Option(32, "--max-new-tokens", help="The longest answer, in tokens."),
    report: Path | None = typer.Option(None, "--report", help="Also write a report: one HTML file."),
    pretraining: bool = typer.Option(False, "--pretraining", help="Score hidden parts and foreign texts it tells."),
    metric: str | None = typer.Option(None, "--metric", help="vqa, anls, cider ...", show_default="the data's own"),
    shots: int = typer.Option(0, "--shots", help="Put so many solved training questions before each."),
    budget: str | None = _budget.BUDGETS,
    price: str | None = _budget.PRICE,
    total: str | None = _budget.TOTAL,
    strategy: str | None = _budget.STRATEGIES,
    draws: int = _budget.DRAWS,
    controls: bool = _budget.CONTROLS,
    drawings: int | None = typer.Option(None, "--drawings", help="Have so many drawn; count those recognised."),
    out: Path | None = _OUT,
    temperature: float | None = _sampling.TEMPERATURE,
    top_p: float | None = _sampling.TOP_P,
    top_k: int | None = _sampling.TOP_K,
    seed: int = _sampling.SEED,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of a table."),
) -> None:
    """Score a run: exact match by kind of question, beside a model without images and the most frequent answers.

    A run that finds boxes is scored by COCO's average precision; --data may then be a COCO annotation file, and tokens
    may be drawn instead of the best taken. An image tokenizer is scored by how near it brings pictures back.
    """
    from foveal.cli import _detection, _drawings, _evaluate, _pretraining, _reconstruction, _regions, _scored, _show

    console = _show.console(quiet=as_json)
    common: Any = {"split": split, "batch": batch, "progress": partial(_show.bar, console)}
    heat = 1.0 if drawings is not None and temperature is None else temperature
    chosen = _sampling.sampling(temperature=heat, top_p=top_p, top_k=top_k, seed=seed, spelled=drawings is None)
    where = {"run": str(run or "starter"), "data": str(data), "split": split}
    tell = partial(_tell, None if as_json else console, where)
    _check_asked(shots, metric, run, scored=drawings is not None or pretraining)
    spendings = _budget.many(budget, strategy, (price, total), draws=draws, controls=controls)
    given = {"report": report, "out": out, "pretraining": pretraining, "controls": controls, "draws": draws != 1}
    way = _scored.way(run, given, drawn=drawings is not None, spent=bool(spendings))
    if drawings is not None:
        told = _drawings.drawings(run, data, count=drawings, sampling=chosen, seed=seed, sheet=out, **common)
        return tell(told, _drawings.show)
    if way == "boxes":
        spending = _budget.one(spendings)
        told = _detection.detection(run, data, limit=limit, results=out, sampling=chosen, spending=spending, **common)
        return tell(told, _detection.show)
    _check_greedy(chosen)
    if way == "pictures":
        return tell(_reconstruction.reconstruction(run, data, limit=limit, **common), _reconstruction.show)
    seen = _regions.source(run)
    if pretraining:
        return tell(_pretraining.pretraining(run, data, limit=limit, **common), partial(tasks, seen=seen), regions=seen)
    asking: Any = {"text_only": text_only, "max_new_tokens": max_new_tokens, "shots": shots, "seed": seed}
    asking |= {"split": split, "limit": limit, "batch": batch, "draws": draws, "controls": controls}
    wanted = _evaluate.Wanted(run=run, data=data, **asking)
    tell(*_asked(wanted, spendings, metric, report, common["progress"]), regions=seen)


def _tell(
    console: "Console | None", where: dict[str, str], told: dict[str, Any], show: Callable[..., None], **more: str
) -> None:
    """Show what came of it on a console; None: print it as JSON, with where it was."""
    from foveal.cli import _show

    _show.print_json({**where, **more, **told}) if console is None else show(console, told)


def _asked(
    wanted: "Wanted",
    spendings: "Sequence[tuple[str, int | Terms]]",
    metric: str | None,
    report: Path | None,
    progress: Any,
) -> tuple[dict[str, Any], Any]:
    """What came of asking questions - with budgets, by a metric, or beside all baselines - and what shows it."""
    from foveal.cli import _budgets, _metrics, _regions

    if spendings:
        named = _metrics.chosen(metric, wanted)
        return _budgets.budgets(wanted, spendings, metric=named, progress=progress), _budgets.show
    if metric and report is not None:
        raise InputError(f"--metric {metric} with --report: a report shows exact match; leave one of them out")
    if report is None and (name := _metrics.chosen(metric, wanted)):
        return _metrics.measured(name, wanted, named=metric is not None, progress=progress), _metrics.show
    return _answered(wanted, report, _regions.source(wanted.run), progress)


def _check_greedy(sampling: Any) -> None:
    if sampling is not None:
        raise InputError("answers are scored as the best tokens say; leave --temperature, --top-p and --top-k out")


def _check_asked(shots: int, metric: str | None, run: Path | None, *, scored: bool) -> None:
    """Raises InputError for what is of questions where none are asked; `scored`: by other means than questions."""
    from foveal.cli import _detection, _reconstruction

    if (shots or metric) and (scored or _detection.detects(run) or _reconstruction.reconstructs(run)):
        given = f"--shots {shots}: solved questions go before" if shots else f"--metric {metric}: metrics are of"
        raise InputError(f"{given} questions, and none are asked here; leave it out")


def _answered(wanted: "Wanted", report: Path | None, seen: str, progress: Any) -> tuple[dict[str, Any], Any]:
    """What came of asking every question, as plain data, and what shows it."""
    from foveal.cli._evaluate import evaluate

    found = evaluate(wanted, progress=progress)
    written = {} if report is None else _report(report, found, wanted)
    shots = {"shots": wanted.shots} if wanted.shots else {}
    return {**found.plain(), **shots, **written}, lambda console, told: show(console, found, told.get("report"), seen)


def _report(out: Path, found: "Evaluation", wanted: "Wanted") -> dict[str, str]:
    """Write the report; where it is."""
    from foveal.cli._report import write

    return {"report": str(write(out, found, run=wanted.run, data=wanted.data, split=wanted.split))}


def _bound(console: "Console", seen: str) -> None:
    """Say what the numbers of a run that read true boxes are."""
    from foveal.cli._regions import BOUND

    if seen == "oracle":
        console.print(f"oracle: {BOUND}")


def tasks(console: "Console", told: dict[str, dict[str, float]], seen: str = "grid") -> None:
    """The table of the pretraining tasks."""
    from foveal.cli import _show

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}%"

    lines = [
        [task, f"{row['loss']:.3f}", f"{row['prior']:.3f}", share(row.get("accuracy")), share(row.get("majority")),
         f"{row['count']:,}"]
        for task, row in told.items()
    ]  # fmt: skip
    ours = "oracle" if seen == "oracle" else "accuracy"
    console.print(_show.table(["task", "loss", "prior", ours, "majority", "count"], lines))
    _bound(console, seen)


def show(console: "Console", found: "Evaluation", report: str | None = None, seen: str = "grid") -> None:
    """The table of an evaluation, how far it is ahead of each baseline, and where its report is.

    What a run that read true boxes has reached is named `oracle`.
    """
    from foveal.cli import _show

    row = found.plain()
    heads = ["kind", "oracle" if seen == "oracle" else "exact", "95%", *NAMES.values(), "count"]
    sums = [
        ("all questions", {"accuracy": row["exact_match"], "interval": row["interval"], **_of(row, "exact_match")}),
        (
            "mean over kinds",
            {
                "accuracy": row["mean_over_kinds"],
                "interval": row["mean_over_kinds_interval"],
                **_of(row, "mean_over_kinds"),
            },
        ),
    ]
    kinds = sorted(row["kinds"].items(), key=lambda entry: -entry[1]["accuracy"])
    lines = [_line(kind, numbers, row["questions"]) for kind, numbers in [*kinds, *sums]]
    console.print(_show.table(heads, lines))
    scenes = f"{row['scenes']:,} scenes" if row["scenes"] != 1 else "one scene, of which no interval can tell,"
    console.print(f"\n{row['questions']:,} questions about {scenes} in {row['seconds']:.1f} s")
    for name, ahead in row["leads"].items():
        gap = ahead["exact_match"]
        low, high = gap["interval"]
        console.print(f"{100 * gap['value']:+.1f} points to {NAMES[name]} (95%: {100 * low:+.1f} to {100 * high:+.1f})")
    if row["text_only"] is None:
        console.print(
            "text only: not trained; foveal train RECIPE --text-only trains it too, or name a run with --text-only"
        )
    console.print(
        f"exact: after lower case, no articles and punctuation. majority, same words: the most frequent answer "
        f"to the kind, or to the very question, in {row['majority_from']}",
        style="dim",
    )
    _bound(console, seen)
    if report is not None:
        console.print(f"report: {report}")


def _of(row: dict[str, Any], part: str) -> dict[str, Any]:
    return {name: scores[part] for name, scores in row["baselines"].items()}


def _line(title: str, numbers: dict[str, Any], total: int) -> list[str]:
    low, high = numbers["interval"]
    others = [numbers.get(name) for name in NAMES]
    return [
        title.replace("_", " "),
        f"{100 * numbers['accuracy']:.1f}%",
        f"{100 * low:.1f}-{100 * high:.1f}",
        *("not trained" if value is None else f"{100 * value:.1f}%" for value in others),
        f"{numbers.get('count', total):,}",
    ]
