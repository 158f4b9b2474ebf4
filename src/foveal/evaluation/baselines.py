"""Answers that need no picture: what is most often right."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from foveal.evaluation.questions import Question
from foveal.evaluation.score import normalise


@dataclass(frozen=True, kw_only=True)
class Majority:
    """The most frequent answer of a training split: by kind, and by the very words of the question."""

    by_kind: dict[str, str]
    by_question: dict[tuple[str, str], str]
    overall: str

    @classmethod
    def of(cls, asked: Iterable[Question]) -> "Majority":
        """Count the true answers of a training split, alike ones together; ties go to the answer seen first.

        What is said is the most frequent spelling: a metric may want more of it than exact match does.
        """
        kinds: dict[str, Counter[str]] = {}
        texts: dict[tuple[str, str], Counter[str]] = {}
        overall: Counter[str] = Counter()
        spelled: dict[str, Counter[str]] = {}
        for question in asked:
            truth = normalise(question.truth)
            kinds.setdefault(question.kind, Counter())[truth] += 1
            texts.setdefault(_words(question), Counter())[truth] += 1
            overall[truth] += 1
            spelled.setdefault(truth, Counter())[question.truth] += 1

        def said(answers: Counter[str]) -> str:
            return _most(spelled[_most(answers)]) if answers else ""

        return cls(
            by_kind={kind: said(answers) for kind, answers in kinds.items()},
            by_question={words: said(answers) for words, answers in texts.items()},
            overall=said(overall),
        )

    def answers(self, asked: Iterable[Question]) -> list[str]:
        """The most frequent answer of each question's kind (of all, where the kind is new)."""
        return [self.by_kind.get(question.kind, self.overall) for question in asked]

    def answers_by_question(self, asked: Iterable[Question]) -> list[str]:
        """The most frequent answer to the same words, else that of the kind: a stronger baseline."""
        return [
            self.by_question.get(_words(question), self.by_kind.get(question.kind, self.overall)) for question in asked
        ]


def _words(question: Question) -> tuple[str, str]:
    return question.kind, normalise(question.text)


def _most(answers: Counter[str]) -> str:
    return answers.most_common(1)[0][0]
