"""Exact match, by kind and in the mean, with intervals that know that questions of one scene belong together.

The bootstrap draws whole scenes with replacement (Efron, 1979; for clusters Field and Welsh, 2007), from a fixed
seed, so that the same answers always get the same interval. Where a system was trained several times, its trainings
are drawn too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.core.errors import InputError
from foveal.evaluation.questions import Question
from foveal.evaluation.words import plain

RESAMPLES = 2000
AT_ONCE = 100  # resamples held in memory together
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS.split())}
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of `count` questions, with its 95% bootstrap interval over scenes."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Exact match over all questions, the plain mean over the kinds, and each kind by itself."""

    exact_match: Rate
    mean_over_kinds: Rate
    kinds: dict[str, Rate]


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How far one set of answers is ahead of another on the same questions (paired bootstrap over scenes)."""

    exact_match: Rate
    mean_over_kinds: Rate
    kinds: dict[str, Rate]


def normalise(text: str) -> str:
    """The form in which answers are compared.

    Lower case and no punctuation, as `words.plain` has it; "twelve" as 12 (zero to twenty); no articles (a, an, the)
    unless nothing else is there.
    """
    words = [_DIGITS.get(word, word) for word in plain(text).split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def matches(answer: str, truth: str) -> bool:
    """Whether an answer is the true one, after both are normalised; silence is never right."""
    given = normalise(answer)
    return bool(given) and given == normalise(truth)


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer is one of the true ones."""
    return any(matches(answer, gold) for gold in question.golds)


def right(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """Which answers are right, as booleans; InputError unless there is one for each question."""
    if len(asked) != len(answers):
        raise InputError(f"{len(answers)} answers to {len(asked)} questions; give one to each")
    return np.array([is_right(question, answer) for question, answer in zip(asked, answers, strict=True)], bool)


def score(asked: Sequence[Question], answers: Sequence[str], *, seed: int = 0) -> Scores:
    """Exact match of the answers, with 95% intervals."""
    return score_trainings(asked, [answers], seed=seed)


def score_trainings(asked: Sequence[Question], answers: Sequence[Sequence[str]], *, seed: int = 0) -> Scores:
    """The mean over the answers of several trainings, with intervals over scenes and trainings."""
    table = _Table(asked, seed=seed)
    return _scores(table, *table.rates(_hits(asked, answers)))


def lead(asked: Sequence[Question], ours: Sequence[str], theirs: Sequence[str], *, seed: int = 0) -> Lead:
    """Our rates minus theirs; above zero with confidence when `low` is."""
    return lead_trainings(asked, [ours], [theirs], seed=seed)


def lead_trainings(
    asked: Sequence[Question], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], *, seed: int = 0
) -> Lead:
    """The same of the means over trainings; as many of ours as of theirs are drawn as pairs, in their order."""
    table = _Table(asked, seed=seed)
    one, other = table.rates(_hits(asked, ours)), table.rates(_hits(asked, theirs))
    scores = _scores(table, one[0] - other[0], one[1] - other[1])
    return Lead(exact_match=scores.exact_match, mean_over_kinds=scores.mean_over_kinds, kinds=scores.kinds)


def _hits(asked: Sequence[Question], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Which answers of each training are right `[K Q]`; InputError where there is no training."""
    if not answers:
        raise InputError("no answers to score; give those of one training at least")
    return np.stack([right(asked, given) for given in answers])


class _Table:
    """Questions counted by scene and kind, and the seed by which scenes are drawn."""

    def __init__(self, asked: Sequence[Question], *, seed: int) -> None:
        if not asked:
            raise InputError("no questions to score; give at least one")
        scenes = {scene: i for i, scene in enumerate(dict.fromkeys(question.scene for question in asked))}
        self.kinds = sorted({question.kind for question in asked})
        columns = {kind: i for i, kind in enumerate(self.kinds)}
        self.at = (
            np.array([scenes[question.scene] for question in asked]),
            np.array([columns[question.kind] for question in asked]),
        )
        self.shape = (len(scenes), len(columns))
        self.counts = self.counted(np.ones(len(asked)))
        self.seed = seed

    def counted(self, values: np.ndarray) -> np.ndarray:
        """`values` of the questions, summed by scene and kind."""
        table = np.zeros(self.shape)
        np.add.at(table, self.at, values)
        return table

    def rates(self, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Overall, mean over kinds, then each kind: as they are, and for each resample `[R, 2 + kinds]`.

        `hits` are those of each training `[K Q]`.
        """
        tables = [self.counted(one) for one in hits]
        point = _rates(np.mean(tables, axis=0).sum(0)[None], self.counts.sum(0)[None])[0]
        draws = []
        for draw, shares in zip(self.resamples(), self.trainings(len(tables)), strict=True):
            drawn = sum(shares[:, k, None] * (draw @ table) for k, table in enumerate(tables))
            draws.append(_rates(np.asarray(drawn), draw @ self.counts))
        return point, np.concatenate(draws)

    def trainings(self, count: int) -> Iterator[np.ndarray]:
        """The share of each training `[r, K]` in the same resamples."""
        random = np.random.default_rng([self.seed, 1])
        for _ in range(RESAMPLES // AT_ONCE):
            yield random.multinomial(count, np.full(count, 1 / count), size=AT_ONCE) / count

    def resamples(self) -> Iterator[np.ndarray]:
        """How often each scene is drawn `[r, scenes]`, a few resamples at a time; the same every time."""
        return resamples(self.shape[0], seed=self.seed)


def resamples(scenes: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of some scenes is drawn `[r, scenes]`, a few resamples at a time; the same every time."""
    random = np.random.default_rng(seed)
    for _ in range(RESAMPLES // AT_ONCE):
        yield random.multinomial(scenes, np.full(scenes, 1 / scenes), size=AT_ONCE).astype(float)


def _rates(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    present = counts > 0  # a resample of few scenes may lack a kind altogether
    each = np.divide(hits, counts, out=np.full_like(hits, np.nan), where=present)
    mean = np.where(present, each, 0.0).sum(1) / present.sum(1)
    return np.concatenate([(hits.sum(1) / counts.sum(1))[:, None], mean[:, None], each], axis=1)


def _scores(table: _Table, point: np.ndarray, draws: np.ndarray) -> Scores:
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    by_kind = table.counts.sum(0).astype(int)
    counts = [int(by_kind.sum()), int(by_kind.sum()), *by_kind.tolist()]
    overall, mean, *kinds = (
        Rate(value=float(point[i]), low=float(low[i]), high=float(high[i]), count=count)
        for i, count in enumerate(counts)
    )
    return Scores(exact_match=overall, mean_over_kinds=mean, kinds=dict(zip(table.kinds, kinds, strict=True)))
