"""Asking a model in words and pictures, and hearing it answer piece by piece."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from foveal.core.types import Answer, Relevance
from foveal.decode.generate import stream
from foveal.models.budget import allocator_of, budgeted
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.models.seeing import looked_at
from foveal.preprocess.chat import question
from foveal.preprocess.image import image_size
from foveal.preprocess.processor import Processor
from foveal.preprocess.video import films


@torch.inference_mode()
def stream_answer(
    model: Causal | Masked,
    processor: Processor,
    images: Any,
    text: str,
    *,
    max_new_tokens: int = 64,
    budget: int | None = None,
    strategy: str = "foveal",
    videos: Any = None,
    **sampling: Any,
) -> Iterator[Answer]:
    """The answer so far, after every new token; the last one is the whole answer.

    `images` are one or several paths or opened pictures, or None; literal image markers in the text place them. So are
    `videos`, which come after these: files, directories of frames, or opened ones. At
    most `budget` visual tokens of each enter the language model, chosen by the `strategy`.
    """
    example = question([*_listed(images), *films(_listed(videos))], text, marker=processor.config.marker)
    device = next(model.parameters()).device
    model = budgeted(model, budget, strategy)
    batch = processor.prompt([example], plan=model.plan, room=max_new_tokens).to(device)
    seen = int((batch.image_slot >= 0).sum())
    looked: tuple[Relevance | None, ...] = ()
    if allocator_of(model) is not None and batch.visual is not None:
        batch = replace(batch, seen=model.see(batch))
        looked = looked_at(batch.seen, [image_size(image) for image in example.images], processor.transform)
    ids: list[int] = []
    steps = (
        iter(model.choose(batch).unbind(1))
        if isinstance(model, Masked)
        else stream(model, batch, max_new_tokens=max_new_tokens, stop_ids=processor.stop_ids, **sampling)
    )
    for step in steps:
        ids.append(int(step[0]))
        words = processor.text(_spoken(ids, processor.stop_ids))
        yield Answer(text=words, visual_tokens=seen, token_ids=tuple(ids), relevance=looked)
    if not ids:
        yield Answer(text="", visual_tokens=seen, relevance=looked)


def answer(model: Causal | Masked, processor: Processor, images: Any, text: str, **settings: Any) -> Answer:
    """The whole answer."""
    *_, last = stream_answer(model, processor, images, text, **settings)
    return last


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


def _spoken(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    return [i for i in ids if i not in stop_ids]
