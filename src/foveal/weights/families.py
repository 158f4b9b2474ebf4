"""The families of reference checkpoints: for each a file that knows its config, its names and its arguments."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor
from foveal.weights import (
    beit3,
    blip2,
    blip2_pairs,
    blip2_qformer,
    chameleon,
    decoder,
    gpt_neox,
    idefics,
    idefics2,
    idefics3,
    instructblip,
    lavis,
    lavis_pairs,
    llava,
    llava_next,
    lxmert,
    mllama,
    mpt,
    open_flamingo,
    opt,
    ovis2,
    ovis25,
    ovis25_causal,
    pix2seq,
    qwen_vl,
    siglip2,
    vilbert,
    vilt,
    vision_towers,
    visualbert,
)
from foveal.weights.companions import ORIGIN
from foveal.weights.files import read_checkpoint
from foveal.weights.huggingface import HuggingFaceCausal, load_causal
from foveal.weights.names import Renaming
from foveal.weights.refusals import check, instead

_FAMILIES = (
    *(
        llava,
        llava_next,
        blip2,
        blip2_pairs,
        blip2_qformer,
        instructblip,
        lavis,
        lavis_pairs,
        idefics,
        idefics2,
        idefics3,
        mllama,
        ovis2,
        ovis25_causal,
        qwen_vl,
        open_flamingo,
        chameleon,
        decoder,
        opt,
        gpt_neox,
        mpt,
    ),
    *(vision_towers, siglip2, ovis25, visualbert, vilt, lxmert, vilbert, pix2seq, beit3),
)
# Origins other than Hugging Face, by the name that a user may give.
FORMATS: dict[str, tuple[ModuleType, ...]] = {
    "pix2seq": (pix2seq,),
    "beit3": (beit3,),
    "vilbert": (vilbert,),
    "open_flamingo": (open_flamingo,),
    "lavis": (lavis, lavis_pairs),
}


def family(config: Mapping[str, Any], where: str, *, format: str | None = None) -> ModuleType:
    """The family file for a config.json; raises InputError for a model type of none, and of another `format`,
    and for what `refusals.check` refuses."""
    check(config, where)
    found = next((found for found in _FAMILIES if found.matches(config)), None)
    if format in FORMATS and found not in FORMATS[format]:
        kind = config.get("model_type") or ("unknown" if found is None else found.KINDS[0])
        way = "give its own directory" if found else f'write "model_type": "{format}" there if it is one'
        raise InputError(
            f"format {format!r}, but {where} holds a {kind!r} model by its config.json; leave format out, or {way}"
        )
    if found is not None:
        return found
    kinds = list(dict.fromkeys(kind for found in _FAMILIES for kind in found.KINDS))
    told = config.get("model_type")
    if told is None:
        raise InputError(f"config.json of {where} names no model_type; write it there, one of {', '.join(kinds)}")
    raise InputError(f"{where} holds a {told!r} model; {instead(told, kinds)}")


def load(
    directory: Path,
    config: Mapping[str, Any],
    *,
    format: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for a model type of no family, and for a missing, unexpected or mis-shaped weight.
    """
    found = family(config, str(directory), format=format)
    if hasattr(found, "load"):  # of weights that say more than the config
        return found.load(directory, config, dtype=dtype, device=device)
    described, names = found.model_config(config), found.renaming(config)
    state = read_checkpoint(directory)
    return load_causal(
        directory,
        _with_own_head(described, config, state, names),
        to_batch=found.batcher,
        renaming=names,
        config=config,
        state=state,
        dtype=dtype,
        device=device,
        wrapper=getattr(found, "WRAPPER", HuggingFaceCausal),
    )


def _with_own_head(
    described: ModelConfig, config: Mapping[str, Any], state: Mapping[str, Tensor], renaming: Renaming
) -> ModelConfig:
    """The model untied, where text_config alone ties its head and the weights hold another one than their table."""
    if config.get("tie_word_embeddings") or not (config.get("text_config") or {}).get("tie_word_embeddings"):
        return described
    ours = renaming.read(renaming.once(state))[0]
    head, table = ours.get("head.map.weight"), ours.get("language.embedding.weight")
    if head is None or table is None or torch.equal(head, table):
        return described
    return replace(described, head=ModelConfig.parse({"head": {"name": "language_model", "tied": False}}).head)


def wrapped(
    model: Causal, origin: Mapping[str, Any], processor: Callable[[], Processor], *, where: Path
) -> HuggingFaceCausal:
    """The model of the run `where` that began as a reference checkpoint, called as that reference is."""
    config = origin["config"]
    found = family(config, str(where))
    return getattr(found, "WRAPPER", HuggingFaceCausal)(
        model,
        to_batch=found.batcher(model, config),
        renaming=found.renaming(config),
        config=config,
        generation=origin["generation"],
        processor=processor,
        beside=where / ORIGIN,
    )
