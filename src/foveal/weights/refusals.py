"""Checkpoints that cannot be read, each told by what it is, before its weights are looked at."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from foveal.core.errors import InputError, nearest
from foveal.weights.files import read_json

_CONVERTED = "give its conversion for transformers, whose name ends in -hf"


def check(config: Mapping[str, Any], where: str) -> None:
    """Raise InputError for weights that are quantized, for fields of no meaning, and for a layout of a model's authors
    that others have converted."""
    if (kind := config.get("model_type")) is not None and not isinstance(kind, str):
        raise InputError(f"config.json of {where} has model_type {kind!r}; write one name there, as 'llava'")
    if told := config.get("quantization_config"):
        way = told.get("quant_method") if isinstance(told, Mapping) else None
        raise InputError(
            f"{where} holds quantized weights ({way or 'quantization_config'}), which Foveal does not read; give the "
            "checkpoint in full precision that they were made of"
        )
    for name in ("dtype", "torch_dtype"):
        told = config.get(name)
        for said in told.values() if isinstance(told, Mapping) else (told,):  # a mapping has one for each part
            if said is not None and not isinstance(getattr(torch, str(said), None), torch.dtype):
                raise InputError(
                    f"config.json of {where} has {name} {said!r}, which is none of torch's; write float32, bfloat16 or "
                    "float16 there"
                )
    for name in ("image_token_index", "image_token_id"):
        index = config.get(name, 0)
        if not isinstance(index, int) and (index is not None or kind == "llava"):  # a BLIP-2 may have none
            raise InputError(f"config.json of {where} has {name} {index!r}; write the number of a token there")
    if str(kind).startswith("llava") and "mm_projector_type" in config and "vision_config" not in config:
        raise InputError(f"{where} holds a LLaVA in the layout of its authors; {_CONVERTED}")
    if kind == "ovis" and "visual_tokenizer_config" in config:
        raise InputError(f"{where} holds an Ovis in the layout of its authors; {_CONVERTED}")


def check_adapter(directory: Path) -> None:
    """Raise InputError for a directory with an adapter of PEFT and no model."""
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").exists():
        base = read_json(directory / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise InputError(
            f"{directory} holds an adapter for {base} and no model; merge it into that (merge_and_unload of peft), "
            "save the result, and give its directory"
        )


def instead(name: str, known: Collection[str]) -> str:
    """What to say after the `name` of another architecture: the supported ones, or the one that was meant.

    Which names are those of another architecture transformers says.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    near = None if name in CONFIG_MAPPING_NAMES else nearest(name, known)
    return f"Foveal loads {', '.join(known)}" if near is None else f"did you mean {near!r}?"
