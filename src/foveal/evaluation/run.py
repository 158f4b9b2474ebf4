"""Questions to answers: in batches of whole scenes, so that a picture is seen once for all that is asked of it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import Example, pictures
from foveal.core.types import Batch
from foveal.decode.generate import spoken
from foveal.evaluation.questions import Question


@runtime_checkable
class Reader(Protocol):
    """What turns conversations into a batch and tokens into words: any processor."""

    @property
    def stop_ids(self) -> Sequence[int]:
        """The tokens that end an answer."""
        ...

    def prompt(
        self, conversations: Sequence[Any], *, plan: Any, visual: Any, padding: Any, room: int, shared: bool
    ) -> Batch:
        """A batch that ends where the answers begin; with `shared`, rows point at one copy of an image."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Words of tokens."""
        ...


@runtime_checkable
class Generate(Protocol):
    """Greedy continuation of rows, of which those of one `group` begin alike; of a batch with choices their places."""

    def __call__(
        self, model: Any, batch: Batch, *, group: Tensor, max_new_tokens: int, stop_ids: Collection[int]
    ) -> Tensor:
        """New tokens alone."""
        ...


def answers(
    asked: Sequence[Question],
    *,
    model: Any,
    processor: Reader,
    generate: Generate,
    batch_size: int = 64,
    max_new_tokens: int = 32,
    shared: bool = True,
    visual: Callable[[Sequence[Any]], Any] | None = None,
    steering: Sequence[Example | None] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The model's greedy answers, in the order of the questions; neither batch size nor order changes one.

    Questions on the same pictures are `shared` in rows that read them once; not so where each steers what is seen.
    `visual` gives what is known of pictures already; None: they are opened. With `steering`, what is seen for each
    question is what another conversation about its pictures asks for; None there: what no word asks for.
    `progress` is called with the number of questions just answered. Raises InputError for a bad batch size, and
    takes the errors of the processor (an image that cannot be read, a prompt longer than the context).
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} questions; give --batch 1 or more")
    device = next(model.parameters()).device
    said = [""] * len(asked)
    for rows, group in batches(asked, batch_size):
        examples = [asked[row].example for row in rows]
        way: Any = {"plan": model.plan, "visual": visual, "padding": "right", "room": max_new_tokens, "shared": shared}
        batch = processor.prompt(examples, **way).to(device)
        if steering is not None:
            others = [steering[row] or asked[row].example for row in rows]
            by = processor.prompt(others, **way).to(device)
            mute = torch.tensor([steering[row] is None for row in rows], device=device)
            batch = replace(batch, seen=model.see(replace(by, prompt=by.prompt & ~mute[:, None])))
        ids = generate(
            model,
            batch,
            group=torch.tensor(group if shared else range(len(rows)), device=device),
            max_new_tokens=max_new_tokens,
            stop_ids=processor.stop_ids,
        )
        for row, mine in zip(rows, ids.tolist(), strict=True):
            choices = asked[row].example.choices if batch.choices else ()
            said[row] = choices[mine[0]] if choices else processor.text(spoken(mine, processor.stop_ids))
        progress(len(rows))
    return said


def batches(asked: Sequence[Question], size: int) -> list[tuple[list[int], list[int]]]:
    """Rows of at most `size` questions, those on the same pictures together; and each row's group 0, 1, 2 ..."""
    scenes: dict[tuple[Any, ...], list[int]] = {}
    for row, question in enumerate(asked):
        scenes.setdefault(pictures(question.example), []).append(row)
    parts: list[tuple[list[int], list[int]]] = [([], [])]
    for rows in scenes.values():
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            if len(parts[-1][0]) + len(some) > size:
                parts.append(([], []))
            mine, group = parts[-1]
            group += [group[-1] + 1 if group else 0] * len(some)
            mine += some
    return [part for part in parts if part[0]]
