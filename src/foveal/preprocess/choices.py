"""Questions with choices: the conversation once for each of them, in rows that stand together."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.preprocess.tokens import Encoded

MARK = "|"  # what parts a question from its choices, and these from each other, where they are asked by hand
HOW = "write them after it, such as 'Which drawing is at the top? | fox | cat'"


def named(example: Example, where: str) -> Example:
    """The example with its choices: its own, or else those that are `offered`."""
    return example if example.choices else offered(example, where)


def offered(example: Example, where: str) -> Example:
    """The example with the choices that its last message names after the question, parted by |.

    Raises InputError for fewer than two, for one that is empty or there twice, and where nothing is asked before them.
    """
    *before, last = example.messages
    question, *choices = (part.strip() for part in _words(last).split(MARK))
    if len(choices) < 2:
        raise InputError(f"{where} names {len(choices)} choices and this model picks among 2 or more; {HOW}")
    if not question:
        raise InputError(f"{where} asks nothing before its choices; {HOW}")
    if "" in choices:
        raise InputError(f"{where} names an empty choice; {HOW}")
    choice, times = Counter(choices).most_common(1)[0]
    if times > 1:
        raise InputError(f"{where} names the choice {choice!r} {times} times; name each once")
    messages = (*before, _saying(last, question))
    return replace(example, messages=messages, meta={**example.meta, "choices": choices})


def check(wanted: int, answers: Sequence[str] | None) -> None:
    """Raises InputError for a number of choices that is none, and for one beside an answer vocabulary."""
    if wanted == 1 or wanted < 0:
        raise InputError(f"processor.choices is {wanted}; give how many a question has, 2 or more, or 0 for none")
    if wanted and answers is not None:
        raise InputError(f"{wanted} choices beside a vocabulary of {len(answers)} answers; leave one of them out")


def counted(example: Example, wanted: int, where: str) -> Example:
    """The example itself; raises InputError where it has another number of choices than `wanted`."""
    if len(example.choices) != wanted:
        raise InputError(
            f"{where} has {len(example.choices)} choices and this model picks among {wanted}; give it as many, set "
            "processor.choices, or leave out what has none by its kind (kinds: {caption: 0})"
        )
    return example


def conversations(example: Example) -> list[Example]:
    """The conversation answered by each of its choices in turn, in the place of what it answers itself."""
    asked = list(example.messages)
    while asked and asked[-1].get("role") == "assistant":
        asked.pop()
    return [replace(example, messages=(*asked, {"role": "assistant", "content": choice})) for choice in example.choices]


def each(example: Example, where: str, encode: Callable[[Example, str], Encoded]) -> Encoded:
    """The example with its `rows`: what `encode` makes of the conversation with each of its choices."""
    rows = [replace(encode(one, where), example=example) for one in conversations(example)]  # one example, not five
    return replace(rows[0], rows=tuple(rows))


def right(asked: Sequence[Encoded]) -> list[int]:
    """The place of each question's answer among its choices. Raises InputError where it is none of them."""
    for one in asked:
        if one.example.answer not in one.example.choices:
            raise InputError(
                f"{one.where} is answered {one.example.answer!r}, and its choices are {list(one.example.choices)}; "
                "add the answer"
            )
    return [one.example.choices.index(one.example.answer) for one in asked]


def together(asked: Sequence[Encoded]) -> int:
    """How many choices each of the questions has. Raises InputError where they differ in it."""
    counts = {len(one.rows): one.where for one in asked}
    if len(counts) > 1:
        told = " and ".join(f"{where} has {count} choices" for count, where in sorted(counts.items())[:2])
        raise InputError(f"{told}; ask questions of different numbers apart")
    return next(iter(counts), 0)


def _words(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _saying(message: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The message with the question alone in the place of its words, and its images where they stand."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": question}
    kept: list[Any] = []
    ended = False
    for part in content:
        words, mark, _ = str(part.get("text", "")).partition(MARK)
        if part.get("type") == "image" or not ended:
            kept.append({**part, "text": words.rstrip()} if mark else part)
        ended = ended or bool(mark)
    return {**message, "content": kept}
