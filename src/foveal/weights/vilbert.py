"""ViLBERT checkpoints (1908.02265; 12-in-1, 1912.02315): words and regions in two streams that look at each other."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.models.assembly import empty
from foveal.models.config import ModelConfig
from foveal.weights.bert import EMBEDDINGS, block, masked_words, share
from foveal.weights.files import read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict, prefixed, whole
from foveal.weights.vilbert_calls import PAIR, Origin, PreTraining, Tasks

KINDS = ("vilbert",)

# What the reference takes for a key that its JSON does not have; some of its files do not have all.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "v_feature_size": 2048, "v_target_size": 1601, "v_hidden_size": 768, "v_num_hidden_layers": 3,
    "v_num_attention_heads": 12, "v_intermediate_size": 3072, "v_hidden_act": "gelu", "bi_hidden_size": 1024,
    "bi_num_attention_heads": 16, "v_biattention_id": [0, 1], "t_biattention_id": [10, 11], "fixed_v_layer": 0,
    "fixed_t_layer": 0, "fusion_method": "mul", "with_coattention": True, "in_batch_pairs": False, "fast_mode": False,
    "visual_target": 0, "predict_feature": False,
}  # fmt: skip
_ABSENT = (
    ("with_coattention", True, "streams that never meet are two models; load each by itself"),
    ("in_batch_pairs", False, "give every text with every image in a row of its own"),
)
_EPS = 1e-12
_TASK_COUNT = 20  # the reference's table of tasks

_TASKS = "bert.embeddings.task_embeddings.weight"
_GATE = "bert.encoder.v_layer.0.attention.self.dyLinear_q.weight"
_SPARE = re.compile(r"bert\.encoder\.c_layer\.\d+\.biOutput\.q_dense[12]\.(weight|bias)")  # there, but never asked

_DEEP = ("vil_prediction", "vil_prediction_gqa", PAIR)
_FLAT = ("vil_logit", "vil_tri_prediction")
_TOKENS = {"vision_logit": "sight", "linguisic_logit": "words"}
_POOLED = ("seq_relationship", *_DEEP, *_FLAT)  # heads that share the reference's one pooler of each stream
_BETA = {"up": "main.0", "classes": "main.3"}  # of a deep head in the reference's first form, which norms its weights

_BODY: list[Rule] = [
    *EMBEDDINGS,
    ("language.marks.weight", "embeddings.task_embeddings.weight"),
    ("connector.map.*", "v_embeddings.image_embeddings.*"),
    ("fusion.location.*", "v_embeddings.image_location_embeddings.*"),
    ("fusion.norm.*", "v_embeddings.LayerNorm.*"),
    *block("language.layers.*", "encoder.layer.*"),
    *block("fusion.sight.*", "encoder.v_layer.*"),
    ("fusion.steering.*.query.*", "encoder.v_layer.*.attention.self.dyLinear_q.*"),
    ("fusion.steering.*.key.*", "encoder.v_layer.*.attention.self.dyLinear_k.*"),
]
_HEADS: list[Rule] = [
    *masked_words("prediction_scores_t"),
    ("heads.prediction_scores_v.transform.*", "cls.imagePredictions.transform.dense.*"),
    ("heads.prediction_scores_v.norm.*", "cls.imagePredictions.transform.LayerNorm.*"),
    ("heads.prediction_scores_v.classes.*", "cls.imagePredictions.decoder.*"),
    ("heads.seq_relationship.classes.*", "cls.bi_seq_relationship.*"),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a ViLBERT; the reference's name no model type."""
    return config.get("model_type") in KINDS or {"v_biattention_id", "t_biattention_id"} <= config.keys()


def _meeting(ours: str, *, own: int, stream: str) -> list[Rule]:
    """The rules of one way of the meetings; its queries are of the reference's stream `own`: 1 is sight, 2 words."""
    look, told, other = "encoder.c_layer.*.biattention", "encoder.c_layer.*.biOutput", 3 - own
    parts = {
        "attention.query": f"{look}.query{own}",
        "attention.key": f"{look}.key{other}",
        "attention.value": f"{look}.value{other}",
        "attention.out": f"{told}.dense{own}",
        "norm": f"{told}.LayerNorm{own}",
        "feed.up": f"encoder.c_layer.*.{stream}_intermediate.dense",
        "feed.down": f"encoder.c_layer.*.{stream}_output.dense",
        "feed_norm": f"encoder.c_layer.*.{stream}_output.LayerNorm",
    }
    return [(f"{ours}.*.{mine}.*", f"{yours}.*") for mine, yours in parts.items()]


def renaming(heads: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours, for a model with these heads."""
    body = [*_BODY, *_meeting("fusion.to_sight", own=2, stream="t"), *_meeting("fusion.to_words", own=1, stream="v")]
    for name in _POOLED:
        if name in heads:
            body += [(f"heads.{name}.words.*", "t_pooler.dense.*"), (f"heads.{name}.sight.*", "v_pooler.dense.*")]
    rules = [*prefixed(body, theirs="bert."), *_HEADS]
    for name in _DEEP:
        if name in heads:
            norm = heads[name]["norm"]
            parts = {"up": "logit_fc.0", "inner_norm": "logit_fc.2", "classes": "logit_fc.3"} if norm else _BETA
            rules += [(f"heads.{name}.{mine}.*", f"{name}.{yours}.*") for mine, yours in parts.items()]
    return Renaming([*rules, *((f"heads.{name}.classes.*", f"{name}.*") for name in (*_FLAT, *_TOKENS))])


def heads_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The heads by the reference's names: those of pretraining, the tuned ones that its weights tell of, the states."""
    act = config["hidden_act"]
    pair = {"name": "paired", "pool": config["bi_hidden_size"], "method": config["fusion_method"], "eps": _EPS}
    heads: dict[str, Any] = {
        "prediction_scores_t": {"name": "masked_language", "activation": act, "eps": _EPS},
        "prediction_scores_v": {"name": "region_prediction", "labels": config["v_target_size"], "activation": act,
                                "eps": _EPS},
        "seq_relationship": {**pair, "labels": 2},
    }  # fmt: skip
    for name in _DEEP:
        for last, norm, between in (("logit_fc.3", True, "gelu"), (_BETA["classes"], False, "relu")):
            if (weight := state.get(f"{name}.{last}.weight")) is not None:
                labels, inner = weight.shape
                heads[name] = {**pair, "labels": labels, "inner": inner, "norm": norm, "activation": between,
                               "rows": 2 if name == PAIR else 1}  # fmt: skip
    heads |= {name: {**pair, "labels": len(state[f"{name}.weight"])} for name in _FLAT if f"{name}.weight" in state}
    for name, reads in _TOKENS.items():
        if (weight := state.get(f"{name}.weight")) is not None:
            heads[name] = {"name": "token_classification", "labels": len(weight), "reads": reads}
    return {**heads, "sequence_t": {"name": "states"}, "sequence_v": {"name": "states", "reads": "sight"}}


def model_config(config: Mapping[str, Any], heads: Mapping[str, Any], *, gated: bool, tasks: int) -> ModelConfig:
    """The rooms' components for a config.json with its defaults. Raises InputError for other parts."""
    for key, value, way in _ABSENT:
        if config[key] != value:
            raise InputError(f"{key} {config[key]!r} is not supported; {way}")
    act, meets = config["hidden_act"], (config["t_biattention_id"], config["v_biattention_id"])
    if config["v_hidden_act"] != act:
        raise InputError(f"hidden_act {act!r} but v_hidden_act {config['v_hidden_act']!r}; give one for both")
    if len(meets[0]) != len(meets[1]):
        counts = f"{len(meets[0])} entries of t_biattention_id but {len(meets[1])} of v_biattention_id"
        raise InputError(f"{counts}; give one of each to every meeting")
    language = {
        "name": "encoder",
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "inner": config["intermediate_size"],
        "context": config["max_position_embeddings"],
        "types": config["type_vocab_size"],
        "activation": act,
        "eps": _EPS,
        "marks": tasks,
    }
    fusion = {
        "name": "co_attention",
        "width_of_sight": config["v_hidden_size"],
        "layers": config["v_num_hidden_layers"],
        "heads": config["v_num_attention_heads"],
        "inner": config["v_intermediate_size"],
        "schedule": [list(pair) for pair in zip(*meets, strict=True)],
        "meet": config["bi_hidden_size"],
        "meet_heads": config["bi_num_attention_heads"],
        "words_inner": config["intermediate_size"],
        "whole": False,  # it comes as the first region
        "gated": gated,
        "fixed": [config["fixed_t_layer"], config["fixed_v_layer"]],
        "activation": act,
        "eps": _EPS,
    }
    parts = {"connector": "linear", "fusion": fusion, "language": language, "heads": dict(heads)}
    return ModelConfig.parse({"assembly": "masked", "features": config["v_feature_size"], **parts})


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTraining | Tasks:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    What scripts of the reference set without writing it to the file, `dynamic_attention` and `task_specific_tokens`, is
    told by the weights. Raises InputError for a missing, unexpected or mis-shaped weight.
    """
    (state, normed), full = whole(read_checkpoint(Path(directory))), {**_DEFAULTS, **config}
    heads = heads_of(full, state)
    gated, told = config.get("dynamic_attention", _GATE in state), config.get("task_specific_tokens", _TASKS in state)
    tasks = (len(state[_TASKS]) if _TASKS in state else _TASK_COUNT) if told else 0
    model = empty(model_config(full, heads, gated=gated, tasks=tasks))
    share(model.heads, _POOLED, ("words", "sight"))
    spare = {name: state.pop(name).to(dtype=dtype) for name in list(state) if _SPARE.fullmatch(name)}
    origin = Origin(config=config, names=renaming(heads), spare=spare, normed=normed)
    load_strict(model, state, str(directory), renaming=origin.names, dtype=dtype, device=device)
    tuned = {*_DEEP, *_FLAT, *_TOKENS} & heads.keys()
    return (Tasks if tuned else PreTraining)(model, origin).eval()
