"""Asking a model in words and pictures, and hearing it answer piece by piece."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, TypeVar

import torch

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.core.types import IGNORE, Answer, Batch, Layout
from foveal.decode.choose import worded
from foveal.decode.generate import new_tokens, spoken, stream
from foveal.decode.sampling import greedy
from foveal.models.budget import allocator_of, budgeted, either, idle, spent, unneeded, unspent
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.models.seeing import looked_at
from foveal.preprocess.chat import listed, question
from foveal.preprocess.choices import offered
from foveal.preprocess.processor import Processor
from foveal.preprocess.video import films
from foveal.relevance.pricing import Terms

M = TypeVar("M", bound=Causal | Masked)
_SETTINGS = ("max_new_tokens", "budget", "price", "strategy", "videos")
_WRITING = ("sampling", "stop_ids")


@torch.inference_mode()
def stream_answer(
    model: Causal | Masked,
    processor: Processor,
    images: Any,
    text: str,
    *,
    max_new_tokens: int = 64,
    budget: SupportsIndex | Terms | None = None,
    price: float | None = None,
    strategy: str = "foveal",
    videos: Any = None,
    **writing: Any,
) -> Iterator[Answer]:
    """The answer so far, after every new token; the last one is the whole answer.

    `images` are one or several paths or opened pictures, or None; literal image markers in the text place them. So are
    `videos`, which come after these: files, directories of frames, or opened ones. At
    most `budget` visual tokens of each enter the language model, chosen by the `strategy`, or as many as each is worth
    at a `price` a token or by other terms. `writing` is the `sampling` (greedy) and the `stop_ids` (the processor's).
    Raises InputError for another setting.
    """
    stops = _stops(processor, writing)
    max_new_tokens = new_tokens(max_new_tokens)
    example = question([*listed(images), *films(listed(videos))], text, marker=processor.config.marker)
    model, batch, (cost,) = prompted(
        model, processor, [example], either(budget, price), strategy, room=max_new_tokens
    )  # fmt: skip
    looked = looked_at(batch.seen, example.images, processor.transform)
    if batch.choices and isinstance(model, Masked):
        place = model.pick(batch)
        words = offered(example, "the question").choices[int(place)]
        said = tuple(i for i in worded(place, batch)[0].tolist() if i != IGNORE)
        yield replace(cost, text=words, token_ids=said, relevance=looked)
        return
    ids: list[int] = []
    steps = (
        iter(model.choose(batch).unbind(1))
        if isinstance(model, Masked)
        else stream(
            model, batch, max_new_tokens=max_new_tokens, stop_ids=stops, sampling=writing.get("sampling") or greedy
        )
    )
    for step in steps:
        ids.append(int(step[0]))
        words = processor.text(spoken(ids, stops))
        yield replace(cost, text=words, token_ids=tuple(ids), relevance=looked)
    if not ids:
        yield replace(cost, relevance=looked)


def answer(model: Causal | Masked, processor: Processor, images: Any, text: str, **settings: Any) -> Answer:
    """The whole answer."""
    *_, last = stream_answer(model, processor, images, text, **settings)
    return last


def prompted(
    model: M,
    processor: Processor,
    asked: Sequence[Example],
    budget: int | Terms | None,
    strategy: str,
    *,
    room: int,
) -> tuple[M, Batch, list[Answer]]:
    """Who answers, the conversations with what is left of their pictures, and what each answer costs, without words.

    Takes the errors of `Processor.prompt` and `budgeted`.
    """
    anew = isinstance(budget, Terms)  # the counts are known later
    model = unspent(model) if anew else budgeted(model, budget, strategy)
    layouts: list[Layout] = []
    wholes: list[Layout] = []

    def plan(*given: Any, **named: Any) -> Layout:
        wholes.append(unspent(model).plan(*given, **named))
        layouts.append(model.plan(*given, **named))
        return layouts[-1]

    batch = processor.prompt(asked, plan=plan, room=room).to(next(model.parameters()).device)
    if anew:
        model, batch = spent(model, batch, budget, strategy)
    elif allocator_of(model) is not None and batch.visual is not None:
        batch = replace(batch, seen=model.see(batch))
    slots = (batch.image_slot >= 0).view(len(asked), -1).sum(1).tolist()  # of all rows of a question with choices
    owner = (batch.owner * len(asked) // len(batch.valid)).tolist()
    costs = []
    for row, read in enumerate(slots):
        mine = [number for number, its in enumerate(owner) if its == row]
        apart = [one for one in layouts if one.slots is not None]
        read += sum(one.counts[i] - one.places[i] for one in apart for i in mine)
        notes = [unneeded(one.only(mine), budget) for one in wholes]
        notes += [idle(model, strategy)] if budget is None else []
        costs.append(Answer(text="", visual_tokens=read, note="; ".join(filter(None, notes))))
    return model, batch, costs


def _stops(processor: Processor, writing: Mapping[str, Any]) -> Collection[int]:
    """What ends an answer; raises InputError for settings that are none of an answer's."""
    for name in writing:
        if name not in _WRITING:
            told = unknown("setting of answer", name, (*_SETTINGS, *_WRITING))
            raise InputError(f"{told}; draw words by sampling=foveal.decode.sampling.sampler(temperature=1.0)")
    return writing.get("stop_ids", processor.stop_ids)
