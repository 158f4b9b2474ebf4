"""A model's answers beside those of baselines on the same questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.evaluation.questions import Question
from foveal.evaluation.score import Lead, Rate, Scores, lead, score

BASELINES = ("text_only", "majority", "question_majority")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Our scores, those of the baselines that were to be had, and how far we are ahead of each (paired)."""

    scores: Scores
    baselines: Mapping[str, Scores]
    leads: Mapping[str, Lead]
    scenes: int


def compare(asked: Sequence[Question], ours: Sequence[str], others: Mapping[str, Sequence[str] | None]) -> Compared:
    """Score all answers; a baseline of None is one that is not to be had."""
    there = {name: given for name, given in others.items() if given is not None}
    return Compared(
        scores=score(asked, ours),
        baselines={name: score(asked, given) for name, given in there.items()},
        leads={name: lead(asked, ours, given) for name, given in there.items()},
        scenes=len({question.scene for question in asked}),
    )


def plain(compared: Compared) -> dict[str, Any]:
    """The comparison as plain data, for JSON; a baseline that is not to be had is None."""
    scores, baselines = compared.scores, compared.baselines
    overall = {name: _value(baselines.get(name)) for name in BASELINES}
    return {
        "exact_match": round(scores.exact_match.value, 6),
        "interval": _interval(scores.exact_match),
        "mean_over_kinds": round(scores.mean_over_kinds.value, 6),
        "mean_over_kinds_interval": _interval(scores.mean_over_kinds),
        **overall,
        "kinds": {kind: _kind(kind, rate, baselines) for kind, rate in scores.kinds.items()},
        "baselines": {
            name: {
                "exact_match": round(other.exact_match.value, 6),
                "mean_over_kinds": round(other.mean_over_kinds.value, 6),
            }
            for name, other in baselines.items()
        },
        "leads": {
            name: {part: _lead(getattr(ahead, part)) for part in ("exact_match", "mean_over_kinds")}
            for name, ahead in compared.leads.items()
        },
        "questions": scores.exact_match.count,
        "scenes": compared.scenes,
    }


def _kind(kind: str, rate: Rate, baselines: Mapping[str, Scores]) -> dict[str, Any]:
    others = {name: round(scores.kinds[kind].value, 6) for name, scores in baselines.items()}
    row = {"accuracy": round(rate.value, 6), "interval": _interval(rate), "count": rate.count}
    return row | {name: others.get(name) for name in BASELINES}


def _lead(rate: Rate) -> dict[str, Any]:
    return {"value": round(rate.value, 6), "interval": _interval(rate)}


def _interval(rate: Rate) -> list[float]:
    return [round(rate.low, 6), round(rate.high, 6)]


def _value(scores: Scores | None) -> float | None:
    return None if scores is None else round(scores.exact_match.value, 6)
