"""Chameleon checkpoints of Hugging Face: pictures and text in one vocabulary of one decoder (2405.09818)."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights import llava
from foveal.weights.decoder import language_rules, language_settings
from foveal.weights.files import read_checkpoint
from foveal.weights.huggingface import HuggingFaceCausal, load_causal
from foveal.weights.names import Renaming, Rule, prefixed

KINDS = ("chameleon",)

_CODE = "IMGIMG"  # names of image words are this, the code's digits as letters from A on, and a Z
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")
_REFERENCE = {  # the reference's defaults where they are not a Llama's
    "model_type": "llama",
    "vocab_size": 65536,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}
_NORMS: list[Rule] = [
    ("layers.*.attention.query_norm.bias", "layers.*.self_attn.q_norm.bias"),
    ("layers.*.attention.key_norm.bias", "layers.*.self_attn.k_norm.bias"),
]
_BLOCK: list[Rule] = [
    ("first_norm.*", "norm1.*"),
    ("first.*", "conv1.*"),
    ("second_norm.*", "norm2.*"),
    ("second.*", "conv2.*"),
    ("shortcut.*", "nin_shortcut.*"),
]
_LOOK: list[Rule] = [
    ("norm.*", "norm.*"),
    ("query.*", "q.*"),
    ("key.*", "k.*"),
    ("value.*", "v.*"),
    ("out.*", "proj_out.*"),
]
_ENDS: list[Rule] = [
    ("enter.*", "conv_in.*"),
    *prefixed(_BLOCK, ours="middle.first.", theirs="mid.block_1."),
    *prefixed(_BLOCK, ours="middle.second.", theirs="mid.block_2."),
    *prefixed(_LOOK, ours="middle.look.", theirs="mid.attn_1."),
    ("leave.norm.*", "norm_out.*"),
    ("leave.conv.*", "conv_out.*"),
]
_CODEBOOK: list[Rule] = [
    ("into.*", "quant_conv.*"),
    ("out_of.*", "post_quant_conv.*"),
    ("codebook.weight", "quantize.embedding.weight"),
]
_DECODER = "model.vqmodel.decoder."


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Chameleon."""
    return config.get("model_type") in KINDS


def image_words(vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """The word that stands for each image code in turn.

    Raises InputError for a vocabulary without image words, or with a code that none or two of them stand for.
    """
    named = [(name, word) for name, word in vocabulary.items() if name.startswith(_CODE)]
    found = {int(name[len(_CODE) : -1].translate(_DIGITS)): word for name, word in named}
    if not found or sorted(found) != list(range(len(named))):
        raise InputError(
            f"vocabulary_map has {len(named)} image words for the codes 0 to {max(found, default=-1)}; "
            "give the config.json that belongs to the checkpoint"
        )
    return tuple(found[code] for code in range(len(found)))


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between a Chameleon checkpoint's weight names and ours; with a decoder of images where the weights hold one."""
    levels = range(len(_vision(config)["multiples"]))
    down = [rule for level in levels for rule in _level(f"levels.{level}.", f"down.{level}.", "downsample")]
    up = [rule for level in levels for rule in _level(f"levels.{levels[-1] - level}.", f"up.{level}.", "upsample")]
    tokenizer = [
        *prefixed([*_ENDS, *down], ours="encoder.", theirs="encoder."),
        *prefixed([*_ENDS, *up], ours="decoder.", theirs="decoder."),
        *_CODEBOOK,
    ]
    own = prefixed(_NORMS, ours="language.", theirs="model.")
    return Renaming([*own, *language_rules(), *prefixed(tokenizer, ours="vision.", theirs="model.vqmodel.")])


def _level(ours: str, theirs: str, resize: str) -> Iterable[Rule]:
    return [
        *prefixed(_BLOCK, ours=f"{ours}blocks.*.", theirs=f"{theirs}block.*."),
        *prefixed(_LOOK, ours=f"{ours}looks.*.", theirs=f"{theirs}attn.*."),
        (f"{ours}resize.conv.*", f"{theirs}{resize}.conv.*"),
    ]


def model_config(config: Mapping[str, Any], *, draws: bool = False) -> ModelConfig:
    """The rooms' components for a Chameleon config.json, with the reference's defaults; `draws`: codes become pixels.

    Raises InputError where the image words of `vocabulary_map` are not those of the tokenizer's codes.
    """
    words, vision = image_words(config.get("vocabulary_map") or {}), _vision(config)
    if len(words) != vision["codes"]:
        raise InputError(
            f"vocabulary_map has {len(words)} image words but vq_config {vision['codes']} codes (num_embeddings); "
            "give the config.json that belongs to the checkpoint"
        )
    given = {name: value for name, value in config.items() if name != "model_type" and value is not None}
    language = language_settings({**_REFERENCE, **given})
    return ModelConfig.parse(
        {
            "vision": {**vision, "decoder": draws},
            "connector": None,
            "fusion": {"name": "vocabulary", "codes": len(words), "words": words},
            "language": {**language, "qk_norm": "own", "norm_after": bool(config.get("swin_norm", False))},
            "head": {"name": "language_model", "tied": bool(config.get("tie_word_embeddings", False))},
        }
    )


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    vq = config.get("vq_config") or {}
    if vq.get("double_latent", False):
        raise InputError("vq_config asks for double_latent, which the tokenizer lacks; Chameleon's checkpoints do not")
    attends = vq.get("attn_type", "vanilla") == "vanilla"
    return {
        "name": "vq",
        "codes": vq.get("num_embeddings", 8192),
        "width": vq.get("embed_dim", 256),
        "latent": vq.get("latent_channels", 256),
        "base": vq.get("base_channels", 128),
        "multiples": tuple(vq.get("channel_multiplier", (1, 1, 2, 2, 4))),
        "blocks": vq.get("num_res_blocks", 2),
        "resolution": vq.get("resolution", 512),
        "looks": tuple((vq.get("attn_resolutions") or ()) if attends else ()),
        "middle": attends,
        "channels": vq.get("in_channels", 3),
    }


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HuggingFaceCausal:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for an unsupported part and for a missing, unexpected or mis-shaped weight.
    """
    state = read_checkpoint(directory)
    return load_causal(
        Path(directory),
        model_config(config, draws=any(name.startswith(_DECODER) for name in state)),
        state=state,
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        dtype=dtype,
        device=device,
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that Chameleon's processor returns."""
    image = config.get("image_token_id") or (config.get("vocabulary_map") or {}).get("<image>")
    return llava.batcher(model, {"image_token_id": image})
