"""LXMERT checkpoints of Hugging Face (1908.07490): words and regions in two streams that meet by one attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.models.assembly import empty
from foveal.models.config import ModelConfig
from foveal.models.masked import Masked
from foveal.weights.arguments import heeded
from foveal.weights.bert import EMBEDDINGS, beside, block, masked_words, readable, share
from foveal.weights.files import read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict, prefixed
from foveal.weights.wrapper import Wrapper

KINDS = ("lxmert",)

_REGIONS: list[Rule] = [
    ("connector.map.*", "encoder.visn_fc.visn_fc.*"),
    ("connector.norm.*", "encoder.visn_fc.visn_layer_norm.*"),
    ("connector.box_map.*", "encoder.visn_fc.box_fc.*"),
    ("connector.box_norm.*", "encoder.visn_fc.box_layer_norm.*"),
]
_POOLED = ("pooled", "matching", "answer")  # heads that share the reference's one pooler
_OBJECTS = ("obj", "attr", "feat")  # heads that share one transform
_LABELS = ("labels", "matched_label", "ans", "obj_labels")
_BOX = 4  # numbers of a box
_HEADS: list[Rule] = [
    *masked_words("words"),
    ("heads.matching.classes.*", "cls.seq_relationship.*"),
    ("heads.answer.up.*", "answer_head.logit_fc.0.*"),
    ("heads.answer.inner_norm.*", "answer_head.logit_fc.2.*"),
    ("heads.answer.classes.*", "answer_head.logit_fc.3.*"),
    *((f"heads.{name}.classes.*", f"obj_predict_head.decoder_dict.{name}.*") for name in _OBJECTS),
    *((f"heads.{name}.transform.*", "obj_predict_head.transform.dense.*") for name in _OBJECTS),
    *((f"heads.{name}.norm.*", "obj_predict_head.transform.LayerNorm.*") for name in _OBJECTS),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an LXMERT."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any], heads: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours, for a model with these heads."""
    alone, cross = config.get("l_layers", 9), config.get("x_layers", 5)
    words = {"attention": "lang_self_att", "up": "lang_inter", "down": "lang_output"}
    sight = {"attention": "visn_self_att", "up": "visn_inter", "down": "visn_output"}
    rules = [*EMBEDDINGS, *_REGIONS, *block("fusion.alone.*", "encoder.r_layers.*")]
    for i in range(alone):
        rules += block(f"language.layers.{i}", f"encoder.layer.{i}")
    for i in range(cross):
        rules += block(f"language.layers.{alone + i}", f"encoder.x_layers.{i}", **words)
    rules += block("fusion.sight.*", "encoder.x_layers.*", **sight)
    for part in ("query", "key", "value"):
        rules.append((f"fusion.meetings.*.attention.{part}.*", f"encoder.x_layers.*.visual_attention.att.{part}.*"))
    rules.append(("fusion.meetings.*.attention.out.*", "encoder.x_layers.*.visual_attention.output.dense.*"))
    rules.append(("fusion.meetings.*.norm.*", "encoder.x_layers.*.visual_attention.output.LayerNorm.*"))
    rules += [(f"heads.{name}.pool.*", "pooler.dense.*") for name in _POOLED if name in heads]
    return Renaming([*prefixed(rules, theirs=("", "lxmert.") if _bare(heads) else ("lxmert.", "")), *_HEADS])


def _bare(heads: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is LxmertModel by itself, whose names have no prefix."""
    return "pooled" in heads


def heads_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The heads of a checkpoint, told by its weights."""
    act, eps = config.get("hidden_act", "gelu"), 1e-12
    heads: dict[str, Any] = {}
    if "cls.predictions.transform.dense.weight" in state:
        tied = config.get("tie_word_embeddings", True)
        heads["words"] = {"name": "masked_language", "activation": act, "eps": eps, "tied": tied}
        heads["matching"] = {"name": "classification", "labels": 2}
    if "answer_head.logit_fc.3.weight" in state:
        labels = len(state["answer_head.logit_fc.3.weight"])
        heads["answer"] = {"name": "mlp_classification", "labels": labels, "late_norm": True, "eps": eps}
    for name in _OBJECTS:
        if (weight := state.get(f"obj_predict_head.decoder_dict.{name}.weight")) is not None:
            heads[name] = {"name": "region_prediction", "labels": len(weight), "activation": act, "eps": eps}
    return heads or {"pooled": "pooled"}


def model_config(config: Mapping[str, Any], heads: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for an LXMERT config.json, with the reference's defaults."""
    if config.get("visual_pos_dim", _BOX) != _BOX:
        raise InputError(f"visual_pos_dim {config['visual_pos_dim']} is not supported; a box has {_BOX} numbers")
    sizes = {
        "heads": config.get("num_attention_heads", 12),
        "inner": config.get("intermediate_size", 3072),
        "activation": config.get("hidden_act", "gelu"),
        "eps": 1e-12,
    }
    cross = config.get("x_layers", 5)
    language = {
        "name": "encoder",
        "vocabulary": config.get("vocab_size", 30522),
        "width": config.get("hidden_size", 768),
        "depth": config.get("l_layers", 9) + cross,
        "context": config.get("max_position_embeddings", 512),
        "types": config.get("type_vocab_size", 2),
        **sizes,
    }
    return ModelConfig.parse(
        {
            "assembly": "masked",
            "features": config.get("visual_feat_dim", 2048),
            "connector": "boxed",
            "fusion": {"name": "cross_modality", "cross": cross, "alone": config.get("r_layers", 5), **sizes},
            "language": language,
            "heads": dict(heads),
        }
    )


def shared(model: Masked) -> Masked:
    """The model with one pooler for all heads that read it, and one transform for all that tell objects."""
    share(model.heads, _POOLED, ("pool",))
    share(model.heads, _OBJECTS, ("transform", "norm"))
    return model


@dataclass(frozen=True, kw_only=True)
class LxmertOutput:
    """The reference's fields; None where a checkpoint has no head for them or they were not asked for."""

    language_output: Float[Tensor, "B L D"]
    vision_output: Float[Tensor, "B R D"]
    pooled_output: Float[Tensor, "B D"] | None = None
    prediction_logits: Float[Tensor, "B L V"] | None = None
    cross_relationship_score: Float[Tensor, "B 2"] | None = None
    question_answering_score: Float[Tensor, "B K"] | None = None
    loss: Float[Tensor, ""] | None = None
    language_hidden_states: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None


class Lxmert(Wrapper):
    """A masked model called with the argument names of LxmertModel, ForPreTraining and ForQuestionAnswering."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        visual_feats: Float[Tensor, "rows R E"] | None = None,
        visual_pos: Float[Tensor, "boxes places box"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        visual_attention_mask: Int[Tensor, "B seen"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        *,
        output_hidden_states: bool = False,
        **wanted: Any,
    ) -> LxmertOutput:
        """The last states of words and regions, and what the checkpoint's heads say of them.

        Wanted are `labels` (words, or answers of a model that only answers), `matched_label`, `ans` and `obj_labels`
        (by `obj`, `attr` and `feat` a pair: what is right, and how much it counts). Raises InputError for counts that
        differ, and for an argument that the reference does not have.
        """
        wanted = heeded(wanted, _LABELS)
        if visual_feats is None or visual_pos is None:
            raise InputError("visual_feats and visual_pos are both wanted; give the regions and their boxes")
        masks = {"words": attention_mask, "seen": visual_attention_mask}
        features = readable(visual_feats, "visual_feats", model=self.model, width=self.model.config.features or 0)
        boxes = readable(visual_pos, "visual_pos", model=self.model, width=_BOX)
        names = ("visual_feats", "visual_pos")
        batch = beside(input_ids, features, boxes, names=names, **masks, types=token_type_ids)
        words, sight = self._states(batch, input_ids.shape[1])
        told = {name: head(sight[-1] if name in _OBJECTS else words[-1]) for name, head in self.model.heads.items()}
        pooler = next((self.model.heads[name] for name in _POOLED if name in self.model.heads), None)
        pooled = None if pooler is None else torch.tanh(pooler.pool(words[-1][:, 0]))  # type: ignore[operator,union-attr]
        return LxmertOutput(
            language_output=words[-1],
            vision_output=sight[-1],
            pooled_output=pooled,
            prediction_logits=told.get("words"),
            cross_relationship_score=told.get("matching"),
            question_answering_score=told.get("answer"),
            loss=self._loss(told, **wanted) if wanted else None,
            language_hidden_states=tuple(words) if output_hidden_states else None,
            vision_hidden_states=tuple(sight) if output_hidden_states else None,
        )

    def _states(self, batch: Batch, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """What every layer says of the words, and of the regions."""
        words: list[Tensor] = []
        sight: list[Tensor] = []
        fusion: Any = self.model.fusion
        hooks = [layer.register_forward_hook(lambda *call: words.append(call[2].hidden[:, :length]))
                 for layer in self.model.language.layers]  # fmt: skip
        hooks += [block.register_forward_hook(lambda *call: sight.append(call[2]))
                  for block in (*fusion.alone, *fusion.sight)]  # fmt: skip
        try:
            first = next(iter(self.model.heads))  # one head has to be named: of words, nowhere
            self.model(batch, at={first: torch.zeros_like(batch.valid) if first == "words" else None})
        finally:
            for hook in hooks:
                hook.remove()
        return words, sight

    def _loss(
        self,
        told: Mapping[str, Tensor],
        labels: Tensor | None = None,
        matched_label: Tensor | None = None,
        obj_labels: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        ans: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The reference's sum of the losses that its config asks for."""
        does = {task: self.config.get(f"task_{task}", True) for task in ("mask_lm", "matched", "obj_predict", "qa")}
        pairs = [(does["matched"], "matching", matched_label), (does["qa"], "answer", ans)]
        pairs.append((does["mask_lm"], "words", labels) if "words" in told else (True, "answer", labels))
        loss = next(iter(told.values())).new_zeros(())
        for wanted, name, right in pairs:
            if wanted and right is not None:
                loss = loss + F.cross_entropy(told[name].flatten(0, -2), right.flatten(), ignore_index=IGNORE)
        for name, (right, counts) in (obj_labels or {}).items() if does["obj_predict"] else ():
            off = _off(told[name].flatten(0, 1), right)
            loss = loss + (off * counts.flatten()).mean() * self.config.get("visual_loss_normalizer", 6.67)
        return loss


def _off(told: Float[Tensor, "N K"], right: Tensor) -> Float[Tensor, " N"]:
    """How far each region is off: in nats from a class, else by the mean of Huber's measure."""
    if right.is_floating_point():
        return F.smooth_l1_loss(told, right.view(told.shape), reduction="none").mean(1)
    return F.cross_entropy(told, right.flatten(), reduction="none")


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Lxmert:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for a missing, unexpected or mis-shaped weight.
    """
    state = read_checkpoint(Path(directory))
    heads = heads_of(config, state)
    model = shared(empty(model_config(config, heads)))
    names = renaming(config, heads)
    load_strict(model, state, str(directory), renaming=names, dtype=dtype, device=device)
    return Lxmert(model, config, names).eval()
