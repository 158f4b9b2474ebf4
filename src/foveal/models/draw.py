"""Asking a model with one vocabulary for words and image codes to draw (Chameleon, 2405.09818)."""

from collections.abc import Sequence

import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.decode.pictures import pictures
from foveal.decode.sampling import Sampling, sampler
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.preprocess.processor import Asked, Processor


@torch.inference_mode()
def draw(
    model: Causal | Masked, processor: Processor, asked: Sequence[Asked | str], *, sampling: Sampling | None = None
) -> list[Image.Image]:
    """A picture for each prompt, a text or a conversation; codes are drawn at random, by torch's seed, unless told.

    Raises InputError for a model that writes no image words or cannot make pixels of them, and for a prompt that
    leaves no room for a picture.
    """
    tokenizer = model.vision
    if isinstance(model, Masked) or model.picture_words is None:
        raise InputError("this model writes words alone; name a run of a recipe that draws, such as chameleon")
    if tokenizer is None or getattr(tokenizer, "decoder", None) is None:
        raise InputError(
            "this model has image words but no decoder that makes pixels of them; add the decoder's weights "
            "(model.vqmodel.decoder...) to the checkpoint, or name a run of the recipe chameleon"
        )
    if not asked:
        return []
    layout, begin = model.plan([processor.transform.grid]), processor.begin_ids
    assert layout.grids[0] is not None
    conversations = [(None, one) if isinstance(one, str) else one for one in asked]
    batch = processor.prompt(conversations, plan=model.plan, room=len(begin) + layout.total)
    batch = batch.to(next(model.parameters()).device)
    codes = pictures(model, batch, count=layout.total, begin=begin, sampling=sampling or sampler())
    values = tokenizer.decode(codes.unflatten(1, layout.grids[0]))  # type: ignore[attr-defined]
    return [processor.transform.picture(one) for one in values]
