"""What is left of answers under budgets of visual tokens: scores beside all tokens, agreement, and controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from foveal.evaluation.agreement import flips
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Lead, Rate, Scores, lead, lead_trainings, score_trainings


@dataclass(frozen=True, kw_only=True)
class Control:
    """Answers to some of the questions, by their `places`, each seen as another question asks for."""

    places: tuple[int, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """A strategy's answers at a budget, drawn once or several times; or why it cannot be.

    The budget is None for all tokens, and in words for a price or a total. `seconds` are those of a draw, `tokens`
    how many of a picture a layer reads, `divergence` from all tokens in nats.
    """

    strategy: str
    budget: int | str | None
    answers: tuple[tuple[str, ...], ...] = ()
    seconds: float = 0.0
    tokens: float | None = None
    divergence: float | None = None
    controls: Mapping[str, Control] = field(default_factory=dict)
    refused: str | None = None


def scores(asked: Sequence[Question], one: Spent) -> Scores:
    """Exact match, the mean over the draws, with intervals over scenes and draws."""
    return score_trainings(asked, one.answers)


def ahead(asked: Sequence[Question], ours: Spent, theirs: Spent) -> Lead:
    """How far one is ahead of another, paired by scenes."""
    return lead_trainings(asked, ours.answers, theirs.answers)


def changed(one: Spent, whole: Spent) -> float:
    """The share of answers that are others than with all tokens."""
    return fmean(flips(answers, whole.answers[0]) for answers in one.answers)


def lost(asked: Sequence[Question], one: Spent, control: Control) -> Lead | None:
    """How far the answers fall where another question steers, on the questions of the control; None: there are none."""
    if not control.places:
        return None
    own = [one.answers[0][place] for place in control.places]
    return lead([asked[place] for place in control.places], own, control.answers)


def plain(asked: Sequence[Question], one: Spent, whole: Spent) -> dict[str, Any]:
    """As JSON tells it."""
    if one.refused is not None:
        return {"strategy": one.strategy, "budget": one.budget, "refused": one.refused}
    found = scores(asked, one)
    told = {
        "strategy": one.strategy,
        "budget": one.budget,
        "exact_match": round(found.exact_match.value, 6),
        "interval": _ends(found.exact_match),
        "mean_over_kinds": round(found.mean_over_kinds.value, 6),
        "kinds": {kind: round(rate.value, 6) for kind, rate in found.kinds.items()},
        "intervals": {kind: _ends(rate) for kind, rate in found.kinds.items()},
        "flips": round(changed(one, whole), 6),
        "divergence": None if one.divergence is None else round(one.divergence, 6),
        "draws": len(one.answers),
        "seconds": one.seconds,
        "tokens": one.tokens,
    }
    if one.controls:
        told["controls"] = {name: _control(asked, one, control) for name, control in one.controls.items()}
    return told


def _control(asked: Sequence[Question], one: Spent, control: Control) -> dict[str, Any]:
    found = lost(asked, one, control)
    if found is None:
        return {"questions": 0, "lost": None}
    rate = found.exact_match
    return {"questions": rate.count, "lost": round(rate.value, 6), "interval": _ends(rate)}


def _ends(rate: Rate) -> list[float]:
    return [round(end, 6) for end in (rate.low, rate.high)]
