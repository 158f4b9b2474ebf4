"""`foveal eval --metric`: a run's answers measured as their field does it, beside what needs no picture."""

import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from foveal.cli._evaluate import Told, Wanted, ask, asked_of, text_only_run, training_questions
from foveal.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.evaluation.questions import Question

NAMES = {"text_only": "text only", "majority": "majority"}


def chosen(named: str | None, wanted: Wanted) -> str | None:
    """The metric by its name, else the one that the data's first example asks for; None: none is asked for.

    Raises InputError for an unknown one.
    """
    from foveal.data.format import iterate
    from foveal.evaluation.measure import metric

    first = None if named else next(islice(iterate(wanted.data, split=wanted.split), 1), None)
    name = named or (str(first.meta.get("metric", "")) if first is not None else "")
    if name:
        metric(name)
    return name or None


def measured(name: str, wanted: Wanted, *, named: bool, progress: Told) -> dict[str, Any]:
    """The figures of a metric with their intervals, those of the baselines, and the leads over these, as plain data.

    Where it was not `named` the data name it, all of them the same. Raises InputError for bad input.
    """
    from foveal.cli._runs import open_run
    from foveal.evaluation.baselines import Majority
    from foveal.evaluation.measure import ahead, measure, of_captions, plain, told
    from foveal.evaluation.measure import wanted as by_data
    from foveal.evaluation.questions import blind

    if wanted.shots:
        raise InputError(f"--shots {wanted.shots} with --metric: a metric is of single questions; leave one out")
    loaded = open_run(wanted.run)
    captions = of_captions(name)
    asked = _captions(wanted) if captions else asked_of(loaded, wanted)
    if not named:
        by_data(asked)
    twin, started = text_only_run(wanted), time.perf_counter()
    said = ask(loaded, asked, wanted, progress, "questions")
    seconds = time.perf_counter() - started
    others: dict[str, Sequence[str]] = {}
    if twin:
        others["text_only"] = ask(open_run(twin), blind(asked), wanted, progress, "without images")
    if not captions:
        training, source = training_questions(wanted.data, wanted.split)
        others["majority"] = Majority.of(training if source else asked).answers(asked)
    return {
        **plain(measure(name, asked, said)),
        "baselines": {other: plain(measure(name, asked, given))["figures"] for other, given in others.items()},
        "leads": {other: told(ahead(name, asked, said, given)) for other, given in others.items()},
        "questions": len(asked),
        "scenes": len({question.scene for question in asked}),
        "seconds": round(seconds, 3),
    }


def _captions(wanted: Wanted) -> "tuple[Question, ...]":
    from foveal.data.format import iterate
    from foveal.evaluation.questions import captioned

    return captioned(iterate(wanted.data, split=wanted.split), limit=wanted.limit)


def show(console: "Console", found: dict[str, Any]) -> None:
    """The table of the figures and of the kinds of question, and how far the run is ahead."""
    from foveal.cli import _show

    main, others = next(iter(found["figures"])), found["baselines"]
    heads = ["figure", "%", "95%", *(NAMES[other] for other in others), "count"]
    lines = [_line(name, row, [others[other][name] for other in others]) for name, row in found["figures"].items()]
    kinds = found["kinds"] if len(found["kinds"]) > 1 else {}
    lines += [_line(f"{main}: {kind}", row, [None for _ in others]) for kind, row in kinds.items()]
    console.print(_show.table(heads, lines))
    console.print(f"\n{found['questions']:,} questions about {found['scenes']:,} scenes in {found['seconds']:.1f} s")
    for other, row in found["leads"].items():
        low, high = (100 * end for end in row["interval"])
        console.print(f"{100 * row['value']:+.1f} points to {NAMES[other]} (95%: {low:+.1f} to {high:+.1f})")


def _line(title: str, row: dict[str, Any], others: Sequence[dict[str, Any] | None]) -> list[str]:
    low, high = row["interval"]
    return [
        title.replace("_", " "),
        f"{100 * row['value']:.1f}",
        f"{100 * low:.1f}-{100 * high:.1f}",
        *("" if other is None else f"{100 * other['value']:.1f}" for other in others),
        f"{row['count']:,}",
    ]
