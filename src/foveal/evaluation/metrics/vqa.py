"""VQA accuracy: an answer is as right as the people who gave it are many, three making it wholly so (1505.00468).

Each of the ten people is left out in turn and the ten results are averaged. Normalisation and its oddities are those
of the official evaluation code.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from foveal.core.errors import InputError
from foveal.evaluation.metrics._means import mean, mean_parts
from foveal.evaluation.questions import Question

FIGURES = ("vqa_accuracy",)
FEWEST, WHOLLY = 4, 3  # people who must have answered, so that three others may agree with each; and those three
PERIODS = 32  # the official code strips no more: it hands a flag over as a count
figures = mean

_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBERS.split())}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD, _COMMA = re.compile(r"\.(?!\d)"), re.compile(r"\d,\d")
_SHORT = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's i'd've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Words that lack one of their apostrophes, and how they are written; i'd've the official table has in capitals."""
    known = {
        word[:at] + word[at + 1 :]: word
        for word in _SHORT.split()
        if word != "i'd've"
        for at, letter in enumerate(word)
        if letter == "'"
    }
    return known | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


def normalise(text: str) -> str:
    """An answer in the form in which the official code compares it.

    Punctuation vanishes where a space or a number with a comma is by, and is a space elsewhere; lower case; "ten" as
    10 and "none" as 0; no articles; apostrophes put into contractions.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare, grouped = text, _COMMA.search(text) is not None
    for sign in _PUNCTUATION:
        lone = f"{sign} " in text or f" {sign}" in text or grouped
        bare = bare.replace(sign, "" if lone else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", bare, count=PERIODS).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, golds: Sequence[str]) -> float:
    """The official accuracy of an answer, from 0 to 1, by what people answered.

    Where they all wrote the same, the answer is compared as it is written; else all are normalised.
    """
    said, people = _stripped(answer), [_stripped(gold) for gold in golds]
    if len(set(people)) > 1:
        said, people = normalise(said), [normalise(gold) for gold in people]
    return agreed(said, people)


def agreed(said: str, people: Sequence[str]) -> float:
    """How far people agree with what is said, from 0 to 1: each is left out in turn, and three others are enough."""
    same = Counter(people)[said]
    left_in = [same - (gold == said) for gold in people]
    return sum(min(1.0, count / WHOLLY) for count in left_in) / len(people)


def parts(asked: Sequence[Question], answers: Sequence[str]) -> np.ndarray:
    """The accuracy of each answer as it is, or normalised as answers are before they are handed in: the better.

    Raises InputError for a question that fewer than four people have answered.
    """
    return mean_parts(
        [
            max(accuracy(said, golds), accuracy(normalise(said), golds))
            for golds, said in zip(answered(asked), answers, strict=True)
        ]
    )


def answered(asked: Sequence[Question]) -> list[Sequence[str]]:
    """What people answered to each question; InputError where fewer than four have."""
    for one in asked:
        if len(one.golds) < FEWEST:
            raise InputError(
                f"question {one.id} has {len(one.golds)} answers, and VQA accuracy counts how many people agree; give "
                f"'answers' of {FEWEST} or more in 'meta', or use --metric exact_match"
            )
    return [one.golds for one in asked]


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
