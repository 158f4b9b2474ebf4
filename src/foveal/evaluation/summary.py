"""What the cells of a comparison come to: a row for each system, length, strategy and number of visual tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from foveal.evaluation.cells import DONE
from foveal.evaluation.measure import over
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Rate, Scores, lead_trainings, score_trainings

WHOLE, BLIND = "all", "text_only"  # strategies that every system has: all tokens, and no images in training or asking

Key = tuple[str, str, str, int | float | None]  # system, length, strategy, tokens that were wanted


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system asked in one way, over all its seeds; `answers` are those of each seed in order.

    `figure` is what a metric says of them, where one is wanted beside exact match, and `home` the strategy that spent
    the system's budgets in training.
    """

    key: Key
    family: str
    seeds: tuple[int, ...]
    answers: Sequence[Sequence[str]]
    scores: Scores
    tokens: float
    flops: float
    training_flops: float
    seconds: float
    flips: float | None = None
    figure: Rate | None = None
    home: str | None = None

    @property
    def system(self) -> str:
        """Its name."""
        return self.key[0]

    @property
    def length(self) -> str:
        """How long it was trained."""
        return self.key[1]

    @property
    def strategy(self) -> str:
        """How visual tokens were chosen."""
        return self.key[2]

    @property
    def name(self) -> str:
        """System, strategy and number of tokens in words."""
        if self.strategy == WHOLE:
            return self.system
        return (
            f"{self.system}, no images" if self.strategy == BLIND else f"{self.system}, {self.strategy} {self.tokens:g}"
        )


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far one row is ahead of another on the same questions, drawn in pairs."""

    ours: Row
    theirs: Row
    rate: Rate
    scenes: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out; of one scene no interval can tell."""
        return self.scenes > 1 and (self.rate.low > 0 or self.rate.high < 0)


def rows(asked: Sequence[Question], records: Sequence[Mapping[str, Any]], *, metric: str | None = None) -> list[Row]:
    """The rows of all finished cells, a system after the other; with the first figure of a metric."""
    cells: dict[Key, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for record in records:
        for cell in record.get("cells", ()):
            if cell["state"] == DONE and len(cell["answers"]) == len(asked):
                key = (record["system"], length(record), cell["strategy"], cell["wanted"])
                cells.setdefault(key, []).append((record, cell))
    whole = {(key[0], key[1]): of for key, of in cells.items() if key[2] == WHOLE}
    made = [_row(asked, key, of, whole.get((key[0], key[1]), []), metric) for key, of in cells.items()]
    places = {key: place for place, key in enumerate(dict.fromkeys((row.length, row.system) for row in made))}
    return sorted(made, key=lambda row: (places[row.length, row.system], row.strategy == BLIND))


def length(record: Mapping[str, Any]) -> str:
    """How long a training was meant to be, in words."""
    name, number = next((name, number) for name, number in record["length"].items() if number is not None)
    return f"{number:.3g} FLOPs" if name == "flops" else f"{number:,} {name}"


def _row(asked: Sequence[Question], key: Key, of: Any, whole: Any, metric: str | None) -> Row:
    full = {record["seed"]: cell["answers"] for record, cell in whole}
    flips = [
        fmean(a != b for a, b in zip(cell["answers"], full[record["seed"]], strict=True))
        for record, cell in of
        if record["seed"] in full
    ]
    answers = [cell["answers"] for _, cell in of]
    return Row(
        key=key,
        family=of[0][0]["family"],
        seeds=tuple(record["seed"] for record, _ in of),
        answers=answers,
        scores=score_trainings(asked, answers),
        tokens=fmean(cell["tokens"] for _, cell in of),
        flops=fmean(sum(cell.get("flops", {}).values()) for _, cell in of),
        training_flops=fmean(sum(record["training"]["flops"].values()) for record, _ in of),
        seconds=fmean(cell["seconds"] for _, cell in of),
        flips=fmean(flips) if flips and key[2] not in (WHOLE, BLIND) else None,
        figure=None if metric is None else over(metric, asked, answers),
        home=_home(of[0][0].get("config", {}).get("model", {}).get("allocator")),
    )


def _home(allocator: Mapping[str, Any] | str | None) -> str | None:
    return allocator["name"] if isinstance(allocator, Mapping) else allocator


def front(found: Sequence[Row], cost: str) -> list[Row]:
    """The rows that no other beats at the same or a lower cost (an attribute of a row), the cheapest first."""
    best: list[Row] = []
    for row in sorted(found, key=lambda row: (getattr(row, cost), -row.scores.exact_match.value)):
        if not best or row.scores.exact_match.value > best[-1].scores.exact_match.value:
            best.append(row)
    return best


def gaps(asked: Sequence[Question], found: Sequence[Row]) -> list[Gap]:
    """Every system against its twin without images and against each other, and strategies at equal tokens: of one
    system, and of systems that were trained under different ones, each asked by its own.
    """
    pairs: list[tuple[Row, Row]] = []
    for size in dict.fromkeys(row.length for row in found):
        mine = [row for row in found if row.length == size]
        whole = [row for row in mine if row.strategy == WHOLE]
        blind = {row.system: row for row in mine if row.strategy == BLIND}
        pairs += [(row, blind[row.system]) for row in whole if row.system in blind]
        pairs += list(combinations(whole, 2))
        less = [row for row in mine if row.strategy not in (WHOLE, BLIND)]
        pairs += [
            (one, two) for one, two in combinations(less, 2) if (one.key[0], one.key[3]) == (two.key[0], two.key[3])
        ]
        own = [row for row in less if row.strategy == row.home]
        pairs += [(one, two) for one, two in combinations(own, 2) if one.key[3] == two.key[3] and one.home != two.home]
    scenes = len({question.scene for question in asked})
    return [
        Gap(scenes=scenes, ours=one, theirs=two, rate=lead_trainings(asked, one.answers, two.answers).exact_match)
        for one, two in pairs
    ]


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON tells it."""
    scores, more = row.scores, {} if row.figure is None else {"figure": rate(row.figure)}
    return {
        "system": row.system,
        "family": row.family,
        "length": row.length,
        "strategy": row.strategy,
        "wanted": row.key[3],
        "seeds": list(row.seeds),
        "tokens": row.tokens,
        "flops": row.flops,
        "training_flops": row.training_flops,
        "seconds": row.seconds,
        "flips": row.flips,
        **more,
        "exact_match": rate(scores.exact_match),
        "mean_over_kinds": rate(scores.mean_over_kinds),
        "kinds": {kind: rate(one) for kind, one in scores.kinds.items()},
    }


def rate(one: Rate) -> dict[str, Any]:
    """A rate with its interval."""
    return {"value": round(one.value, 6), "interval": [round(one.low, 6), round(one.high, 6)], "count": one.count}
