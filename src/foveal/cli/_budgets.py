"""`foveal eval --budget`: what is left of a run's answers when it may read only so many visual tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from foveal.cli._evaluate import Told, Wanted, ask, asked_of, gallery_of
from foveal.core.errors import InputError
from foveal.core.example import pictures
from foveal.evaluation import measure
from foveal.evaluation.questions import Question
from foveal.evaluation.spending import Control, Spent, plain
from foveal.relevance.pricing import Terms

if TYPE_CHECKING:
    from rich.console import Console

Spendings = Sequence[tuple[str, int | Terms]]


@dataclass(frozen=True, kw_only=True)
class Budgeted:
    """Questions, and what came of them with all tokens (the first row) and by every strategy at every budget.

    `encoding` are the seconds that all pictures took once, which those of a strategy that encodes them otherwise hold
    again.
    """

    asked: Sequence[Question]
    rows: Sequence[Spent]
    encoding: float

    def plain(self, metric: str | None = None) -> dict[str, Any]:
        """As JSON tells it, with the first figure of a metric."""
        rows = [plain(self.asked, row, self.rows[0]) for row in self.rows]
        told = {"questions": len(self.asked), "encoding": self.encoding, "budgets": rows}
        if metric is None:
            return told
        for row, spent in zip(rows, self.rows, strict=True):
            if spent.refused is None:
                row["figure"] = measure.told(measure.over(metric, self.asked, spent.answers))
        return {"metric": metric, "figure": measure.metric(metric).FIGURES[0], **told}


def budgets(wanted: Wanted, spendings: Spendings, *, metric: str | None = None, progress: Told) -> dict[str, Any]:
    """What came of every strategy at every budget, as plain data; takes the errors of `spend`.

    A metric of captions is refused: budgets are scored on questions.
    """
    from foveal.cli._runs import open_run

    if metric is not None and measure.of_captions(metric):
        raise InputError(f"--metric {metric} scores captions, and budgets are scored on questions; leave one out")
    return spend(open_run(wanted.run), wanted, spendings, progress=progress).plain(metric)


def spend(loaded: Any, wanted: Wanted, spendings: Spendings, *, progress: Told) -> Budgeted:
    """The answers of every strategy at every budget, beside those of all tokens; one that cannot be says why.

    A strategy of lots is drawn as often as is wanted, by the seeds 0, 1, 2 ...; with controls, one that a question
    steers is also steered by others. Raises InputError for questions before which solved ones are to stand, and for no
    draws.
    """
    from foveal.models.budget import lacking

    if wanted.shots:
        raise InputError(f"--shots {wanted.shots} with --budget: a budget is scored on single questions; leave one out")
    if wanted.draws < 1:
        raise InputError(f"--draws {wanted.draws}: strategies of lots are drawn at least once; give 1 or more")
    asked = asked_of(loaded, wanted)
    reasons = {pair: lacking(loaded.model, pair[1], pair[0]) for pair in spendings}
    gallery, encoding = _encoded(loaded, asked, wanted, [pair for pair in spendings if reasons[pair] is None])
    asking = _Asking(loaded=loaded, asked=asked, gallery=gallery, progress=progress)
    whole, first = asking.drawn(replace(wanted, budget=1, strategy="all"), "all tokens")  # whatever a run's own budget
    rows = [replace(whole, budget=None, divergence=None if first is None else 0.0)]
    for strategy, budget in spendings:
        if (reason := reasons[strategy, budget]) is not None:
            rows.append(Spent(strategy=strategy, budget=_told(budget), refused=reason))
            continue
        rows.append(asking.tried(replace(wanted, budget=budget, strategy=strategy), first))
    return Budgeted(asked=asked, rows=rows, encoding=encoding)


def _told(budget: Any) -> int | str | None:
    return str(budget) if isinstance(budget, Terms) else budget


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """A loaded model, what it is asked, and its pictures as they were seen."""

    loaded: Any
    asked: tuple[Question, ...]
    gallery: Any
    progress: Told

    def tried(self, wanted: Wanted, whole: Any) -> Spent:
        """The same as `spent`, with controls where they are wanted, or what stands against it.

        With all tokens these questions were answered, so that an error is the strategy's own.
        """
        try:
            row = self.spent(wanted, whole)
            return replace(row, controls=self.controls(wanted)) if wanted.controls else row
        except InputError as error:
            return Spent(strategy=wanted.strategy, budget=_told(wanted.budget), refused=str(error))

    def spent(self, wanted: Wanted, whole: Any) -> Spent:
        """A strategy's answers of every draw, and how far it is from the whole model's first words."""
        rows, apart = [], []
        for settings in _settings(wanted.strategy, wanted.draws):
            lot = f" ({settings['seed']})" if settings else ""
            row, first = self.drawn(replace(wanted, settings=settings), f"{wanted.strategy} {wanted.budget}{lot}")
            rows.append(row)
            apart += _apart(first, whole)
        return replace(
            rows[0],
            answers=tuple(row.answers[0] for row in rows),
            seconds=round(fmean(row.seconds for row in rows), 2),
            divergence=fmean(apart) if apart else None,
        )

    def drawn(self, wanted: Wanted, what: str) -> tuple[Spent, Any]:
        """The answers of one draw, and how their first words were scored."""
        from foveal.decode.sampling import greedy
        from foveal.evaluation.agreement import Heard

        heard, counts, started = Heard(greedy), list[int](), time.perf_counter()
        writing: Any = {"sampling": heard, "told": lambda seen: counts.extend(seen.layout.counts)}
        said = ask(self.loaded, self.asked, wanted, self.progress, what, self.gallery, **writing)
        seconds = round(time.perf_counter() - started, 2)
        tokens = round(fmean(counts), 2) if counts else _tokens(self.loaded, self.asked, wanted)
        budget = str(wanted.budget) if isinstance(wanted.budget, Terms) else wanted.budget
        about: Any = {"strategy": wanted.strategy, "budget": budget, "tokens": tokens}
        return Spent(answers=(tuple(said),), seconds=seconds, **about), heard.first

    def controls(self, wanted: Wanted) -> dict[str, Control]:
        """The answers where other questions steer; none for a strategy that no question steers behind the connector."""
        from foveal.evaluation.controls import CONTROLS, steered_by
        from foveal.models.budget import allocated

        if not getattr(allocated(self.loaded.model, wanted.budget or 1, wanted.strategy), "steered", False):
            return {}
        found = {}
        for name in CONTROLS:
            steering = steered_by(self.asked, name, seed=wanted.seed)
            places, by = tuple(place for place, _ in steering), [one for _, one in steering]
            what, some = f"{wanted.strategy} {wanted.budget}, {name}", tuple(self.asked[place] for place in places)
            said = ask(self.loaded, some, wanted, self.progress, what, self.gallery, steering=by) if places else []
            found[name] = Control(places=places, answers=tuple(said))
        return found


def _settings(strategy: str, draws: int) -> list[dict[str, Any]]:
    """The settings of each draw: its seed, where the strategy has one."""
    from dataclasses import fields

    from foveal.core.lookup import module
    from foveal.models.budget import ROOM

    lots = any(one.name == "seed" for one in fields(module(ROOM, strategy).Config))
    return [{"seed": seed} for seed in range(draws)] if lots else [{}]


def _apart(first: Any, whole: Any) -> list[float]:
    """How far first words are from the whole model's, where there are such; both were asked in the same order."""
    from foveal.evaluation.agreement import divergence

    return [] if first is None or whole is None else [divergence(first, whole)]


def _encoded(loaded: Any, asked: Any, wanted: Wanted, spendings: Spendings) -> tuple[Any, float]:
    """Every picture, seen once with all that some strategy needs of it, and how long that took."""
    from foveal.models import seats
    from foveal.models.budget import allocated

    needs = {need for name, budget in spendings for need in seats.needs(allocated(loaded.model, budget, name))}
    gallery, started = gallery_of(loaded, tuple(sorted(needs))), time.perf_counter()
    if gallery is not None:
        gallery.fill((image for question in asked for image in question.example.images), size=wanted.batch)
    return gallery, round(time.perf_counter() - started, 2)


def _tokens(loaded: Any, asked: Sequence[Question], wanted: Wanted) -> float | None:
    """How many visual tokens of a picture each layer reads, on average; None where this is not known beforehand."""
    from foveal.models.budget import budgeted

    if loaded.model.vision is None or isinstance(wanted.budget, Terms):
        return None
    view, image = budgeted(loaded.model, wanted.budget, wanted.strategy), loaded.processor.config.image
    shown = [[image.grid]] if image.tiling is None else _cut(loaded.processor, asked)
    by_layer = [fmean(view.plan_by_layer(sizes)) for sizes in shown]
    return round(sum(by_layer) / sum(map(len, shown)), 2) if shown else None


def _cut(processor: Any, asked: Sequence[Question]) -> list[list[Any]]:
    """How the pictures of each scene are cut into tiles, those of one scene together."""
    from foveal.preprocess.video import among, planned

    look, known = processor.config.image, {pictures(question.example): question.example for question in asked}
    scenes = [among(processor.viewed(example).images, look.tiling) for example in known.values() if example.images]
    return [planned(images, look, processor.config.video) for images in scenes]


def show(console: "Console", told: dict[str, Any]) -> None:
    """A line for each strategy and budget."""
    from foveal.cli import _show

    rows = told["budgets"]
    kinds = list(rows[0]["kinds"])
    more = [told["figure"].replace("_", " ")] if "figure" in told else []
    heads = ["strategy", "budget", *more, "exact", "mean over kinds", "flips", "KL", *kinds, "tokens a layer", "time"]
    lines = [_line(row, kinds, len(heads)) for row in rows]
    console.print(_show.table(heads, lines, left=["strategy"], keys=2))
    console.print(
        f"\n{told['questions']:,} questions; flips: answers that are others than with all tokens; KL: from these, of a "
        f"first word, in nats; pictures were encoded once, in {told['encoding']:.1f} s beside these times",
        style="dim",
    )
    _show_controls(console, rows)
    for reason in dict.fromkeys(row["refused"] for row in rows if "refused" in row):
        console.print(f"n/a: {reason}", style="dim")


def _show_controls(console: "Console", rows: Sequence[dict[str, Any]]) -> None:
    """How far answers fall where another question says where to look; nothing where none was tried."""
    from foveal.cli import _show

    lines = [
        [row["strategy"], str(row["budget"]), name.replace("_", " "), f"{one['questions']:,}", *_lost(one)]
        for row in rows
        for name, one in row.get("controls", {}).items()
    ]
    if lines:
        heads = ["strategy", "budget", "steered by", "questions", "points lost", "95%"]
        console.print(_show.table(heads, lines, left=["strategy", "steered by"], keys=3))


def _lost(one: dict[str, Any]) -> list[str]:
    if one["lost"] is None:
        return ["n/a", "n/a"]
    low, high = one["interval"]
    return [f"{100 * one['lost']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]


def _line(row: dict[str, Any], kinds: Sequence[str], cells: int) -> list[str]:
    first = [row["strategy"], "all" if row["budget"] is None else str(row["budget"])]
    if "refused" in row:
        return [*first, *["n/a"] * (cells - 2)]
    return [
        *first,
        *([f"{100 * row['figure']['value']:.1f}%"] if "figure" in row else []),
        *(f"{100 * row[name]:.1f}%" for name in ("exact_match", "mean_over_kinds", "flips")),
        "" if row["divergence"] is None else f"{row['divergence']:.2f}",
        *(f"{100 * row['kinds'][kind]:.0f}" for kind in kinds),
        "" if row["tokens"] is None else f"{row['tokens']:g}",
        f"{row['seconds']:.1f} s",
    ]
