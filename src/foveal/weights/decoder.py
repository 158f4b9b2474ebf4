"""Plain language models of Hugging Face: Llama (and SmolLM2), Mistral, Qwen2, Qwen3, SmolLM3."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.layers.axes import AXES
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.refusals import instead

KINDS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_PARTS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}  # language models of larger ones, and as what they are built

_RULES: list[Rule] = [
    ("embedding.weight", "embed_tokens.weight"),
    ("layers.*.attention_norm.weight", "layers.*.input_layernorm.weight"),
    ("layers.*.attention.query.*", "layers.*.self_attn.q_proj.*"),
    ("layers.*.attention.key.*", "layers.*.self_attn.k_proj.*"),
    ("layers.*.attention.value.*", "layers.*.self_attn.v_proj.*"),
    ("layers.*.attention.out.*", "layers.*.self_attn.o_proj.*"),
    ("layers.*.attention.query_norm.weight", "layers.*.self_attn.q_norm.weight"),
    ("layers.*.attention.key_norm.weight", "layers.*.self_attn.k_norm.weight"),
    ("layers.*.mlp_norm.weight", "layers.*.post_attention_layernorm.weight"),
    ("layers.*.mlp.gate.*", "layers.*.mlp.gate_proj.*"),
    ("layers.*.mlp.up.*", "layers.*.mlp.up_proj.*"),
    ("layers.*.mlp.down.*", "layers.*.mlp.down_proj.*"),
    ("norm.weight", "norm.weight"),
    (None, "layers.*.self_attn.rotary_emb.inv_freq"),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of a plain language model that `load` reads."""
    return config.get("model_type") in KINDS


def language_rules(
    ours_prefix: str = "language.",
    theirs_prefix: str | tuple[str, ...] = "model.",
    head: str | tuple[str, ...] = "lm_head",
) -> list[Rule]:
    """Renaming rules of the decoder and its head, to stand among those of a larger model."""
    heads = (head,) if isinstance(head, str) else head
    return [
        *prefixed(_RULES, ours=ours_prefix, theirs=theirs_prefix),
        ("head.map.weight", tuple(f"{name}.weight" for name in heads)),
    ]


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of these checkpoints and ours (their config does not change the names)."""
    return Renaming(language_rules())


def language_settings(text_config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `decoder` for a reference's text config, with the reference's own defaults.

    Raises InputError for another kind of model and for settings that the decoder lacks (sliding windows, other
    rotary scalings), naming them.
    """
    named = str(text_config.get("model_type"))
    if named not in (*KINDS, *_PARTS):
        raise InputError(f"a language model of kind {named!r}; {instead(named, KINDS)}")
    config, kind = reference_config(text_config), _PARTS.get(named, named)
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise InputError(
            f"the {named} config asks for sliding-window attention (use_sliding_window), which the decoder lacks; "
            "set it to false if the text is shorter than the window"
        )
    attention_bias = getattr(config, "attention_bias", kind == "qwen2")
    return {
        "name": "decoder",
        "vocabulary": config.vocab_size,
        "width": config.hidden_size,
        "depth": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_width": getattr(config, "head_dim", None),
        "inner": config.intermediate_size,
        "context": config.max_position_embeddings,
        "activation": config.hidden_act,
        "eps": config.rms_norm_eps,
        "qkv_bias": attention_bias,
        "out_bias": attention_bias and kind != "qwen2",
        "mlp_bias": getattr(config, "mlp_bias", False),
        "qk_norm": kind == "qwen3",
        "rope": _rope(config.rope_parameters) | _turns(named, config),
        "deviation": config.initializer_range,
        "window": config.sliding_window if kind == "mistral" else None,
    }


def head_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the head: the table of words where the reference ties them."""
    return {"name": "language_model", "tied": bool(reference_config(config).tie_word_embeddings)}


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that a language model's tokenizer returns."""
    return text_batch


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The language model and its head for a config.json; raises InputError for settings that they lack."""
    return ModelConfig.parse({"language": language_settings(config), "head": head_settings(config)})


def reference_config(given: Mapping[str, Any]) -> Any:
    """The reference's reading of a config, which knows what a file leaves out; raises InputError for a broken one."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    settings = deepcopy({name: value for name, value in given.items() if name != "model_type"})  # it writes into parts
    try:
        return AutoConfig.for_model(given["model_type"], **settings)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        told = " ".join(str(error).split()).partition(". Should contain one of")[0]  # all that it knows
        raise InputError(f"config.json of a {given['model_type']} cannot be read: {told}; copy it again") from None


def _still(config: Any) -> tuple[int, ...]:
    """The layers whose positions turn nothing: a 0 in the reference's list."""
    return tuple(layer for layer, turned in enumerate(config.no_rope_layers) if not turned)


def _turns(named: str, config: Any) -> dict[str, Any]:
    """By what the layers and the pairs of a head turn, where these differ."""
    if named == "smollm3":
        return {"still": _still(config)}
    if named not in _PARTS:
        return {}
    usual = (24, 20, 20) if named == "qwen3_vl_text" else (16, 24, 24)
    sections = config.rope_parameters.get("mrope_section") or usual
    if len(sections) > AXES:
        raise InputError(
            f"mrope_section {list(sections)} has {len(sections)} parts for {AXES} axes; give each axis one"
        )
    return {"sections": tuple(sections), "interleaved": named == "qwen3_vl_text"}


def _rope(given: Mapping[str, Any]) -> dict[str, Any]:
    kind, partial = given.get("rope_type", "default"), given.get("partial_rotary_factor")
    if kind not in ("default", "linear", "llama3") or partial not in (None, 1.0):
        told = f"{kind!r}" if partial in (None, 1.0) else f"{kind!r} over {partial} of each head"
        raise InputError(f"rotary positions of type {told} are not supported; supported: default, linear, llama3")
    rope: dict[str, Any] = {"base": given["rope_theta"]}
    if kind != "default":
        rope |= {"scaling": kind, "factor": given["factor"]}
    if kind == "llama3":
        rope |= {
            "low": given["low_freq_factor"],
            "high": given["high_freq_factor"],
            "original": given["original_max_position_embeddings"],
        }
    return rope
