"""VisualBERT checkpoints of Hugging Face (1908.03557): region features beside words in one BERT."""

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
from foveal.weights.arguments import heeded, in_table, same
from foveal.weights.bert import EMBEDDINGS, asked_for, beside, block, masked_words, readable
from foveal.weights.files import check_class, read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict, prefixed
from foveal.weights.wrapper import Wrapper

KINDS = ("visual_bert",)

_PLACES = {
    "attention_mask": "words",
    "token_type_ids": "types",
    "position_ids": "places",
    "visual_attention_mask": "seen",
    "visual_token_type_ids": "kinds",
    "image_text_alignment": "alignment",
}

_BODY: list[Rule] = [
    *block("language.layers.*", "visual_bert.encoder.layer.*"),
    *prefixed(EMBEDDINGS, theirs="visual_bert."),
    ("connector.map.*", "visual_bert.embeddings.visual_projection.*"),
    ("fusion.types.weight", "visual_bert.embeddings.visual_token_type_embeddings.weight"),
    ("fusion.positions.weight", "visual_bert.embeddings.visual_position_embeddings.weight"),
    (None, "visual_bert.embeddings.visual_position_ids"),
]
_PRETRAINING: list[Rule] = [
    ("heads.matching.pool.*", "visual_bert.pooler.dense.*"),
    ("heads.matching.classes.*", "cls.seq_relationship.*"),
]
_POOLED: list[Rule] = [
    ("heads.answer.pool.*", "visual_bert.pooler.dense.*"),
    ("heads.answer.classes.*", "cls.*"),
]
_UNPOOLED: list[Rule] = [
    ("heads.answer.classes.*", "cls.*"),
    (None, ("visual_bert.pooler.dense.weight", "visual_bert.pooler.dense.bias")),  # there, but never asked
]


@dataclass(frozen=True, kw_only=True)
class VisualBertOutput:
    """The reference's fields; `hidden_states` are None where they were not asked for."""

    prediction_logits: Float[Tensor, "B L V"]
    seq_relationship_logits: Float[Tensor, "B 2"]
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a VisualBERT."""
    return config.get("model_type") in KINDS


def architecture(config: Mapping[str, Any]) -> str:
    """The reference's class; raises InputError for one that is not there."""
    name = (config.get("architectures") or ["VisualBertForPreTraining"])[0]
    check_class(config, _KINDS)
    return name


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours."""
    words = masked_words("prediction", tied=_tied(config))
    return Renaming([*_BODY, *words, *_KINDS[architecture(config)].rules])


def _tied(config: Mapping[str, Any]) -> bool:
    return config.get("tie_word_embeddings", True)


def _heads(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    labels = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    heads = {name: dict(head) for name, head in _KINDS[architecture(config)].heads.items()}
    for head in heads.values():
        if head["name"] == "masked_language":
            head |= {"activation": config.get("hidden_act", "gelu"), "eps": config.get("layer_norm_eps", 1e-12)}
            head["tied"] = _tied(config)
        elif head["labels"] is None:
            head["labels"] = labels
    return heads


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for a VisualBERT config.json, with the reference's defaults."""
    if config.get("bypass_transformer"):
        raise InputError("bypass_transformer is not supported (the reference fails on it too); set it to false")
    eps, act = config.get("layer_norm_eps", 1e-12), config.get("hidden_act", "gelu")
    context, types = config.get("max_position_embeddings", 512), config.get("type_vocab_size", 2)
    language = {
        "name": "encoder",
        "vocabulary": config.get("vocab_size", 30522),
        "width": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "inner": config.get("intermediate_size", 3072),
        "context": context,
        "types": types,
        "activation": act,
        "eps": eps,
    }
    return ModelConfig.parse(
        {
            "assembly": "masked",
            "features": config.get("visual_embedding_dim", 512),
            "connector": "linear",
            "fusion": {"name": "single_stream", "types": types, "positions": context},
            "language": language,
            "heads": _heads(config),
        }
    )


@dataclass(frozen=True, kw_only=True)
class VisualBertAnswer:
    """The reference's fields; `hidden_states` are None where they were not asked for."""

    logits: Float[Tensor, "B K"]
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class VisualBert(Wrapper):
    """A masked model called with the argument names of its reference; what it says is of the architecture's kind.

    Arguments: input_ids, visual_embeds, attention_mask, token_type_ids, position_ids, visual_attention_mask,
    visual_token_type_ids, image_text_alignment, labels, output_hidden_states. Raises InputError for features of
    another width or count, for masks and types that differ from them, and for an argument that would change the answer.
    """

    def batch(self, input_ids: Tensor, visual_embeds: Tensor | None, **places: Any) -> Batch:
        """What the model reads, out of the reference's arguments; a region is of type 1 where none is given."""
        given = {_PLACES[name]: value for name, value in heeded(places, _PLACES).items()}
        width = self.model.config.features or 0
        in_table(input_ids, self.model.language.vocabulary)
        if visual_embeds is None:
            visual_embeds = torch.zeros(len(input_ids), 0, width, device=input_ids.device)
        features = readable(visual_embeds, "visual_embeds", model=self.model, width=width)
        if given.get("kinds") is None:
            given["kinds"] = torch.ones(features.shape[:2], dtype=torch.long, device=input_ids.device)
        return beside(input_ids, features, names=("visual_embeds",), **given)


class PreTraining(VisualBert):
    """VisualBertForPreTraining."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        visual_embeds: Float[Tensor, "rows R E"] | None = None,
        *,
        labels: Int[Tensor, "B M"] | None = None,
        sentence_image_labels: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool = False,
        **places: Any,
    ) -> VisualBertOutput:
        """Words, then regions: the scores of every word at every place, and whether text and image belong together.

        With `labels` (of words and regions, IGNORE where none is wanted) comes the loss; `sentence_image_labels` add
        theirs.
        """
        batch = self.batch(input_ids, visual_embeds, **places)
        output = self.model(batch, keep_hidden=output_hidden_states)
        words, pairs = output.heads["prediction"], output.heads["matching"]
        loss = None
        if labels is not None:
            same("labels", labels.shape[1], "words and regions", words.shape[1])
            loss = F.cross_entropy(words.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
            if sentence_image_labels is not None:
                loss = loss + F.cross_entropy(pairs, sentence_image_labels.flatten())
        return VisualBertOutput(
            prediction_logits=words,
            seq_relationship_logits=pairs,
            loss=loss,
            hidden_states=output.hidden_states,
        )


class VisualReasoning(VisualBert):
    """VisualBertForVisualReasoning (NLVR2): one text about the regions of two images, which their types tell apart."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        visual_embeds: Float[Tensor, "rows R E"] | None = None,
        *,
        labels: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool = False,
        **places: Any,
    ) -> VisualBertAnswer:
        """Scores of the labels, and the cross-entropy of the right ones where these are given."""
        output = self.model(self.batch(input_ids, visual_embeds, **places), keep_hidden=output_hidden_states)
        loss = None if labels is None else F.cross_entropy(output.logits, labels.flatten())
        return VisualBertAnswer(logits=output.logits, loss=loss, hidden_states=output.hidden_states)


class MultipleChoice(VisualBert):
    """VisualBertForMultipleChoice (VCR): several texts about the regions of one image, of which one is right."""

    def forward(
        self,
        input_ids: Int[Tensor, "B C L"],
        visual_embeds: Float[Tensor, "rows C R E"] | None = None,
        *,
        labels: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool = False,
        **places: Any,
    ) -> VisualBertAnswer:
        """A score `[B C]` of each text; every argument has a place for each choice, as the reference's has."""
        flat = {name: given.flatten(0, 1) if isinstance(given, Tensor) else given for name, given in places.items()}
        seen = None if visual_embeds is None else visual_embeds.flatten(0, 1)
        batch = self.batch(input_ids.flatten(0, 1), seen, **flat)
        output = self.model(batch, keep_hidden=output_hidden_states)
        logits = output.logits.view(input_ids.shape[:2])
        loss = None if labels is None else F.cross_entropy(logits, labels.flatten())
        return VisualBertAnswer(logits=logits, loss=loss, hidden_states=output.hidden_states)


class QuestionAnswering(VisualBert):
    """VisualBertForQuestionAnswering: answers are scored off the word before the last one of the text."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        visual_embeds: Float[Tensor, "rows R E"] | None = None,
        *,
        attention_mask: Int[Tensor, "B L"] | None = None,
        labels: Float[Tensor, "B K"] | None = None,
        output_hidden_states: bool = False,
        **places: Any,
    ) -> VisualBertAnswer:
        """Scores of the answers; with `labels`, their distribution, the logarithms of the chances and the divergence.

        Raises InputError for a text of a single word.
        """
        batch = self.batch(input_ids, visual_embeds, attention_mask=attention_mask, **places)
        last = batch.valid[:, : input_ids.shape[1]].sum(1) - 2  # as the reference counts
        if (last < 0).any():
            raise InputError("a text of fewer than 2 tokens has none to score answers at; give the question whole")
        where = torch.arange(batch.valid.shape[1], device=last.device) == last[:, None]
        output = self.model(batch, at={"answer": where}, keep_hidden=output_hidden_states)
        logits, loss = output.logits, None
        if labels is not None:
            logits = logits.log_softmax(-1)
            loss = F.kl_div(logits, labels, reduction="batchmean")
        return VisualBertAnswer(logits=logits, loss=loss, hidden_states=output.hidden_states)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """An architecture: what it is called by, its heads (labels of None are the config's) and the names of these."""

    wrapper: type[VisualBert]
    heads: Mapping[str, Mapping[str, Any]]
    rules: list[Rule]


_KINDS = {
    "VisualBertForPreTraining": _Kind(
        wrapper=PreTraining,
        heads={"prediction": {"name": "masked_language"}, "matching": {"name": "classification", "labels": 2}},
        rules=_PRETRAINING,
    ),
    "VisualBertForMultipleChoice": _Kind(
        wrapper=MultipleChoice, heads={"answer": {"name": "classification", "labels": 1}}, rules=_POOLED
    ),
    "VisualBertForVisualReasoning": _Kind(
        wrapper=VisualReasoning, heads={"answer": {"name": "classification", "labels": None}}, rules=_POOLED
    ),
    "VisualBertForQuestionAnswering": _Kind(
        wrapper=QuestionAnswering, heads={"answer": {"name": "token_classification", "labels": None}}, rules=_UNPOOLED
    ),
}


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> VisualBert:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for a missing, unexpected or mis-shaped weight.
    """
    model = empty(model_config(config))
    state = asked_for(read_checkpoint(Path(directory)), tied=_tied(config))
    names = renaming(config)
    load_strict(model, state, str(directory), renaming=names, dtype=dtype, device=device)
    return _KINDS[architecture(config)].wrapper(model, config, names).eval()
