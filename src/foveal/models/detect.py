"""Asking a model that spells objects which there are in pictures, and where (Pix2Seq, 2109.10852)."""

from collections.abc import Sequence
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.core.types import Answer
from foveal.decode.constrained import write
from foveal.decode.sampling import Sampling, greedy
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.preprocess.chat import listed
from foveal.preprocess.processor import Processor
from foveal.preprocess.sequence import OBJECT, legal

LIKELY = 0.3  # the score from which an object is worth mentioning


@torch.inference_mode()
def detect(
    model: Causal | Masked, processor: Processor, images: Sequence[Any], *, sampling: Sampling = greedy
) -> list[tuple[Box, ...]]:
    """The objects in each picture, the surest first: as many as a sequence holds, most of them unlikely.

    A model that was trained without noise stops by itself. Raises InputError for a processor without detection, a
    picture that cannot be read, and a context too short for the sequence.
    """
    speller = processor.speller
    if speller is None or isinstance(model, Masked):
        raise InputError("this model answers in words and finds no boxes; name a run of a detection recipe")
    if not images:
        return []
    asked = [Example(id=f"picture {number}", messages=(), images=(image,)) for number, image in enumerate(images, 1)]
    codec = speller.codec
    written = write(
        model,
        processor.prompt(asked, plan=model.plan).to(next(model.parameters()).device),
        legal=legal(codec, model.language.vocabulary, stop=not speller.config.augmentation.noise),
        steps=codec.max_objects * OBJECT,
        best=codec.class_place,
        stop_ids=(codec.pad,) if codec.end is None else (codec.end,),
        pad_id=codec.pad,
        sampling=sampling,
    )
    rows = zip(images, written.tokens.cpu(), written.chances.cpu(), strict=True)
    return [speller.found(image, tokens, chances) for image, tokens, chances in rows]


def shown(model: Causal | Masked, processor: Processor, images: Any, *, sampling: Sampling = greedy) -> Answer:
    """The objects in one picture in words, those likely enough, one a line: name, score, left, top, right, bottom.

    Raises InputError for more or fewer pictures than one.
    """
    pictures = listed(images)
    if len(pictures) != 1:
        raise InputError(f"{len(pictures)} pictures to find objects in; give one")
    (boxes,) = detect(model, processor, pictures, sampling=sampling)
    lines = [
        f"{box.label} {box.score:.2f} at {' '.join(f'{place:.0f}' for place in box.xyxy)}"
        for box in boxes
        if box.score is not None and box.score >= LIKELY
    ]
    layout = model.plan([processor.transform.grid])
    return Answer(text="\n".join(lines) or "nothing", visual_tokens=layout.total, boxes=boxes)
