"""BLIP-2 and InstructBLIP as LAVIS keeps them (2301.12597, 2305.06500): an EVA tower, a BERT as Q-Former, OPT or Llama.

LAVIS saves what it trained: where its file lacks the frozen parts, the directory holds `eva_vit_g.pth` beside it, and
the language model's own directory under the name that config.json gives as `opt_model` or `llm_model`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights import blip2, decoder, instructblip, opt
from foveal.weights.arguments import same
from foveal.weights.files import read_checkpoint, read_config, read_nested, section
from foveal.weights.huggingface import HuggingFaceCausal, load_causal
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.qformer import Blip, layer_rules, word_rules


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What LAVIS calls the language model and the map to it, and whether the queries hear the instruction."""

    language: str
    map: str
    hears: bool = False


_KINDS = {
    "blip2_opt": _Kind(language="opt_model", map="opt_proj"),
    "blip2_vicuna_instruct": _Kind(language="llm_model", map="llm_proj", hears=True),
}
KINDS = tuple(_KINDS)
WRAPPER = Blip
TOWER = "eva_vit_g.pth"
_BLOCKS = 39  # of the tower's file; the last block is not used
_HEAD, _VISION_HEAD = 64, 88  # widths of a head in the Q-Former and in the tower
_LN_VISION = 1e-5

_TOWER: list[Rule] = [
    ("patches.*", "patch_embed.proj.*"),
    ("class_token", "cls_token"),
    ("positions", "pos_embed"),
    ("blocks.*.attention_norm.*", "blocks.*.norm1.*"),
    (
        tuple(f"blocks.*.attention.{part}.weight" for part in ("query", "key", "value")),
        "blocks.*.attn.qkv.weight",
    ),
    ("blocks.*.attention.query.bias", "blocks.*.attn.q_bias"),
    ("blocks.*.attention.value.bias", "blocks.*.attn.v_bias"),
    ("blocks.*.attention.out.*", "blocks.*.attn.proj.*"),
    ("blocks.*.feed_norm.*", "blocks.*.norm2.*"),
    ("blocks.*.feed.up.*", "blocks.*.mlp.fc1.*"),
    ("blocks.*.feed.down.*", "blocks.*.mlp.fc2.*"),
]
LEADING = {"query_tokens": 1, "visual_encoder.cls_token": 2, "visual_encoder.pos_embed": 1}
LACKING = ("vision.blocks.*.attention.key.bias",)


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names one of LAVIS's models."""
    return config.get("model_type") in KINDS


def tower_rules() -> list[Rule]:
    """The names of the tower, and of the norm after it, inside a model."""
    return [*prefixed(_TOWER, ours="vision.", theirs="visual_encoder."), ("vision.post_norm.*", "ln_vision.*")]


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between LAVIS's weight names and ours."""
    kind, text = _KINDS[config["model_type"]], section(config, "text_config")
    head = f"{kind.language}.lm_head"
    language = (
        opt.language_rules(f"{kind.language}.model.decoder.", head)
        if opt.matches(text)
        else decoder.language_rules(theirs_prefix=f"{kind.language}.model.", head=head)
    )
    return Renaming(
        [
            *tower_rules(),
            ("connector.queries", "query_tokens"),
            ("connector.stack.norm.*", "Qformer.bert.embeddings.LayerNorm.*"),
            *word_rules("connector.words", "Qformer.bert.embeddings"),
            *layer_rules("connector.stack.layers.*", "Qformer.bert.encoder.layer.*", inside="self"),
            ("connector.map.*", f"{kind.map}.*"),
            *language,
        ],
        leading=LEADING,
        lacking=LACKING,
    )


def model_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    """The rooms' components, whose sizes the weights tell; heads have LAVIS's widths unless config.json counts them."""
    kind, text = _KINDS[config["model_type"]], section(config, "text_config")
    language = opt.language_settings(text) if opt.matches(text) else decoder.language_settings(text)
    tied = opt.head_settings(text)["tied"] if opt.matches(text) else bool(text.get("tie_word_embeddings", False))
    connector = {"name": "qformer", **stack_settings(config, state)}
    if kind.hears:
        tables = [state[f"Qformer.bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position")]
        connector |= {"vocabulary": len(tables[0]), "context": len(tables[1])}
    return ModelConfig.parse(
        {
            "vision": tower_settings(config, state),
            "connector": connector,
            "fusion": "prefix",
            "language": language,
            "head": {"name": "language_model", "tied": tied},
        }
    )


def tower_settings(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of the component `vit`, whose sizes the weights tell."""
    patches, positions = state["visual_encoder.patch_embed.proj.weight"], state["visual_encoder.pos_embed"]
    width, patch = patches.shape[0], patches.shape[-1]
    return {
        "name": "vit",
        "width": width,
        "depth": _layers(state, "visual_encoder.blocks."),
        "heads": config.get("vision_heads", max(1, width // _VISION_HEAD)),
        "inner": state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        "patch": patch,
        "image_size": int((positions.shape[1] - 1) ** 0.5) * patch,
        "pre_norm": False,
        "patch_bias": True,
        "activation": "gelu",
        "eps": 1e-6,
        "layers": [-1],
        "select": "full",
        "last_norm": True,
        "last_eps": _LN_VISION,
    }


def stack_settings(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of the queries and their stack, told by the weights; heads have LAVIS's width unless counted."""
    layers = "Qformer.bert.encoder.layer."
    depth, width = _layers(state, layers), state["query_tokens"].shape[-1]
    looking = [i for i in range(depth) if f"{layers}{i}.crossattention.self.query.weight" in state]
    return {
        "queries": state["query_tokens"].shape[1],
        "width": width,
        "depth": depth,
        "heads": config.get("heads", max(1, width // _HEAD)),
        "inner": state[f"{layers}0.intermediate_query.dense.weight"].shape[0],
        "frequency": looking[1] if len(looking) > 1 else depth,
    }


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)), default=-1)


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HuggingFaceCausal:
    """The model of a directory with a checkpoint of LAVIS, called as that of Hugging Face is.

    Raises InputError for a missing, unexpected or mis-shaped weight, for a part that is not there, and for another
    number of queries than config.json says.
    """
    folder = Path(directory)
    state, config = _whole(folder, config)
    return load_causal(
        folder,
        model_config(config, state),
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        state=state,
        dtype=dtype,
        device=device,
        wrapper=Blip,
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that Hugging Face's processors return for such a model."""
    family = instructblip if _KINDS[config["model_type"]].hears else blip2
    side = getattr(model.vision, "image_size")  # noqa: B009
    return family.batcher(
        model, {"model_type": family.KINDS[0], "vision_config": {"image_size": side}, **_marker(config)}
    )


def _marker(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"image_token_index": config.get("image_token_index")}


def _whole(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All weights, the frozen ones out of files of their own, and the config with that of the language model."""
    kind, config = _KINDS[config["model_type"]], dict(config)
    state = learned(folder, config)
    part = config.get(kind.language)
    if not any(name.startswith(f"{kind.language}.") for name in state):
        if part is None or not (folder / part).is_dir():
            raise InputError(
                f"{folder} holds no {kind.language}.* weights; put the language model's own directory there and "
                f'name it as "{kind.language}" in config.json'
            )
        state |= _language(folder / part, kind.language)
    if "text_config" not in config:
        config["text_config"] = read_config(folder / str(part))
    return state, config


def learned(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """What LAVIS has saved, and the tower out of a file of its own where it was frozen.

    Raises InputError where either is not there, and for another number of queries than config.json says.
    """
    state, said = read_nested(folder, "model", but=TOWER), config.get("num_query_token")
    if "query_tokens" not in state:
        raise InputError(f"{folder} holds no query_tokens; give a checkpoint that LAVIS saved")
    if said is not None:
        held = state["query_tokens"].shape[1]
        same("num_query_token in config.json", said, "queries in the weights", held, way="give the one's checkpoint")
    return state if _layers(state, "visual_encoder.blocks.") else state | _frozen_tower(folder)


def _frozen_tower(folder: Path) -> dict[str, Tensor]:
    if not (folder / TOWER).is_file():
        raise InputError(f"{folder} holds no visual_encoder.* weights; put {TOWER} there")
    known = Renaming(_TOWER)
    return {
        f"visual_encoder.{name}": weight
        for name, weight in read_nested(folder / TOWER, "model").items()
        if not known.read({name: weight})[1] and _number(name) < _BLOCKS
    }


def _number(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blocks.") else 0


def _language(folder: Path, prefix: str) -> dict[str, Tensor]:
    state = read_checkpoint(folder)
    bare = opt.matches(read_config(folder)) and any(name.startswith("decoder.") for name in state)
    return {f"{prefix}.{'model.' if bare else ''}{name}": weight for name, weight in state.items()}
