"""The generation settings of a checkpoint: which are obeyed, which change no answer, and which are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import index
from pathlib import Path
from typing import Any, Literal, SupportsIndex

from torch import Generator, Tensor

from foveal.core.errors import InputError
from foveal.decode import sampling
from foveal.weights.files import read_json


@dataclass(frozen=True)
class _Rule:
    """How a setting is met: `refused` but at its `neutral` value, `drawn` where words are drawn alone; `beside` is what
    would be heard beside the words."""

    way: Literal["obeyed", "idle", "beside", "drawn", "refused"]
    neutral: int = 0


OBEYED = (
    "max_new_tokens", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p",
    "repetition_penalty",
)  # fmt: skip
_IDLE = (
    "bos_token_id", "max_length", "use_cache", "cache_implementation", "cache_config", "early_stopping",
    "transformers_version", "attn_implementation", "trust_remote_code", "disable_compile", "compile_config",
    "low_memory", "use_model_defaults", "remove_invalid_values", "renormalize_logits", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "max_matching_ngram_size", "is_assistant",
)  # fmt: skip
_BESIDE = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
_FACTORS = (
    "num_beams", "num_beam_groups", "num_return_sequences", "length_penalty", "encoder_repetition_penalty",
    "guidance_scale",
)  # fmt: skip
_REFUSED = (  # in every version of transformers that has obeyed them, whether the installed one does or not
    "bad_words_ids", "begin_suppress_tokens", "constraints", "diversity_penalty", "dola_layers",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id",
    "forced_decoder_ids", "forced_eos_token_id", "max_time", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "penalty_alpha", "sequence_bias", "stop_strings", "suppress_tokens", "token_healing", "watermarking_config",
)  # fmt: skip
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(OBEYED, _Rule("obeyed")),
    **dict.fromkeys(_IDLE, _Rule("idle")),
    **dict.fromkeys(_BESIDE, _Rule("beside")),
    **dict.fromkeys(_FACTORS, _Rule("refused", neutral=1)),
    **dict.fromkeys(_REFUSED, _Rule("refused")),
    **dict.fromkeys(("min_p", "top_h", "epsilon_cutoff", "eta_cutoff"), _Rule("drawn")),
    "typical_p": _Rule("drawn", neutral=1),
}
_UNKNOWN = _Rule("refused")


def refused(settings: Mapping[str, Any]) -> list[str]:
    """Generation settings that would change the answer and are not there."""
    return [name for name, value in settings.items() if _changes(name, value, drawn=bool(settings.get("do_sample")))]


def _changes(name: str, value: Any, *, drawn: bool) -> bool:
    rule = _RULES.get(name, _UNKNOWN)
    if rule.way in ("obeyed", "idle") or (rule.way == "drawn" and not drawn) or name.startswith("_"):
        return False
    return isinstance(value, Tensor) or not (value in (None, [], {}) or value == rule.neutral)


def own_settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its answers: without what it asks to hear beside them, and what nobody reads."""
    return {
        name: value
        for name, value in told.items()
        if value is not None and _RULES.get(name, _UNKNOWN).way != "beside" and (name in _RULES or name in _theirs())
    }


@cache
def _theirs() -> frozenset[str]:
    """The settings that the installed transformers reads."""
    from transformers import GenerationConfig

    return frozenset(GenerationConfig().to_dict())


def generation_settings(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json over the special tokens of config.json (and of its text part)."""
    settings: dict[str, Any] = {}
    for source in (config.get("text_config") or config.get("llm_config") or config.get("lm") or {}, config):
        given = {name: source.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        settings |= {name: value for name, value in given.items() if value is not None}
    path = directory / "generation_config.json"
    return settings | read_json(path) if path.exists() else settings


def new_within(most: int, prompt: int) -> int:
    """How many new tokens a length of all leaves; raises InputError where that is none."""
    if most <= prompt:
        raise InputError(f"a max_length of {most} for a prompt of {prompt} tokens; raise it, or give max_new_tokens")
    return most - prompt


def token_ids(given: Any) -> tuple[int, ...]:
    """An eos_token_id as the numbers of tokens; raises InputError for what is none."""
    if given is None:
        return ()
    ids = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not all(isinstance(one, SupportsIndex) for one in ids):
        raise InputError(f"eos_token_id is {given!r}; give the number of a token, or a list of them")
    return tuple(map(index, ids))


def sampling_of(settings: Mapping[str, Any], generator: Generator | None = None) -> sampling.Sampling:
    """How words are chosen by generation settings; raises InputError for what is no number there."""
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        if isinstance(value := settings.get(name), str | list | tuple | dict):
            raise InputError(f"{name} is {value!r}; give a number")
    chosen = sampling.greedy
    if settings.get("do_sample"):
        top_k, heat = settings.get("top_k"), settings.get("temperature")
        chosen = sampling.sampler(
            temperature=1.0 if heat is None else heat,
            top_k=50 if top_k is None else top_k or None,  # transformers' own default
            top_p=settings.get("top_p"),
            generator=generator,
        )
    penalty = settings.get("repetition_penalty")
    return chosen if penalty in (None, 1) else sampling.penalized(chosen, penalty)
