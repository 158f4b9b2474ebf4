"""Answers measured as a field does it: the figures of one of `metrics/`, with intervals over scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from foveal.core.errors import InputError, unknown
from foveal.core.lookup import module, names
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Rate, resamples

DEFAULT = "exact_match"


@runtime_checkable
class Metric(Protocol):
    """What a file of `metrics/` that scores answers holds."""

    FIGURES: Sequence[str]  # the first is the one that stands for all

    def parts(self, asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
        """What each question adds `[Q P]`."""
        ...

    def figures(self, sums: np.ndarray) -> np.ndarray:
        """The figures `[... F]` of summed parts `[... P]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All figures of a metric over the questions, and its first one of each kind of question."""

    metric: str
    figures: Mapping[str, Rate]
    kinds: Mapping[str, Rate]


def metrics() -> tuple[str, ...]:
    """The metrics that score answers."""
    return tuple(name for name in names("evaluation.metrics") if isinstance(_file(name), Metric))


def metric(name: str) -> Metric:
    """A metric by its name. Raises InputError for an unknown one, with the nearest."""
    if name not in metrics():
        raise unknown("metric", name, metrics())
    return _file(name)


def of_captions(name: str) -> bool:
    """Whether a metric scores captions rather than answers to questions."""
    return bool(getattr(metric(name), "CAPTIONS", False))


def measure(name: str, asked: Sequence[Question], answers: Sequence[str], *, seed: int = 0) -> Measured:
    """The figures of a metric, with 95% intervals; the errors of `metric` and of the metric itself."""
    found, parts = metric(name), _parts(name, asked, answers)
    rates = _rates(found, parts, [one.scene for one in asked], seed)
    kinds: dict[str, list[int]] = {}
    for row, question in enumerate(asked):
        kinds.setdefault(question.kind, []).append(row)
    return Measured(
        metric=name,
        figures=dict(zip(found.FIGURES, rates, strict=True)),
        kinds={
            kind: _rates(found, parts[rows], [asked[row].scene for row in rows], seed)[0]
            for kind, rows in sorted(kinds.items())
        },
    )


def over(name: str, asked: Sequence[Question], trainings: Sequence[Sequence[str]], *, seed: int = 0) -> Rate:
    """A metric's first figure, the mean over answers of several draws or trainings (bootstrap over both and scenes)."""
    found, scenes = metric(name), [one.scene for one in asked]
    drawn = [_drawn(found, _parts(name, asked, answers), scenes, seed) for answers in trainings]
    point, draws = np.mean([one for one, _ in drawn], axis=0), np.stack([one for _, one in drawn])
    chosen = np.random.default_rng(seed).integers(len(drawn), size=(draws.shape[1], len(drawn)))
    mixed = np.take_along_axis(draws, chosen.T[..., None], axis=0).mean(0)
    return _summed(point, mixed, len(asked))[0]


def ahead(name: str, asked: Sequence[Question], ours: Sequence[str], theirs: Sequence[str], *, seed: int = 0) -> Rate:
    """How far our answers are ahead of others by a metric's first figure (paired bootstrap over scenes)."""
    found, scenes = metric(name), [one.scene for one in asked]
    point, draws = _drawn(found, _parts(name, asked, ours), scenes, seed)
    other, others = _drawn(found, _parts(name, asked, theirs), scenes, seed)
    return _summed(point - other, draws - others, len(asked))[0]


def wanted(asked: Sequence[Question]) -> str:
    """The metric that the data ask for by `meta["metric"]`, else exact match. Raises InputError where they disagree."""
    named = {str(one.example.meta.get("metric", DEFAULT)) for one in asked}
    if len(named) > 1:
        raise InputError(
            f"the data ask for the metrics {', '.join(sorted(named))}; choose one of them with --metric, or score them "
            "apart"
        )
    return named.pop() if named else DEFAULT


def plain(measured: Measured) -> dict[str, Any]:
    """The figures as plain data, for JSON."""
    return {
        "metric": measured.metric,
        "figures": {name: told(rate) for name, rate in measured.figures.items()},
        "kinds": {kind: told(rate) for kind, rate in measured.kinds.items()},
    }


def told(rate: Rate) -> dict[str, Any]:
    """One figure as plain data."""
    return {
        "value": round(rate.value, 6),
        "interval": [round(rate.low, 6), round(rate.high, 6)],
        "count": rate.count,
    }


def _file(name: str) -> Any:
    return module("evaluation.metrics", name)


def _parts(name: str, asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    if not asked or len(asked) != len(answers):
        raise InputError(f"{len(answers)} answers to {len(asked)} questions; give one to each, and one at least")
    return metric(name).parts(asked, answers)


def _drawn(found: Metric, parts: np.ndarray, scenes: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The figures as they are `[F]`, and those of each resample `[R F]`."""
    places = {scene: place for place, scene in enumerate(dict.fromkeys(scenes))}
    table = np.zeros((len(places), parts.shape[1]))
    np.add.at(table, [places[scene] for scene in scenes], parts)
    draws = [found.figures(draw @ table) for draw in resamples(len(places), seed=seed)]
    return found.figures(table.sum(0)), np.concatenate(draws)


def _rates(found: Metric, parts: np.ndarray, scenes: Sequence[str], seed: int) -> list[Rate]:
    return _summed(*_drawn(found, parts, scenes, seed), len(parts))


def _summed(point: np.ndarray, draws: np.ndarray, count: int) -> list[Rate]:
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return [
        Rate(value=float(p), low=float(a), high=float(b), count=count) for p, a, b in zip(point, low, high, strict=True)
    ]
