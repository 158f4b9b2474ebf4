"""VisualBERT checkpoints of Hugging Face (1908.03557): region features beside words in one BERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError, unknown
from foveal.core.types import IGNORE, Batch, Layout, VisualTokens
from foveal.models.config import ModelConfig
from foveal.models.masked import Masked, empty
from foveal.weights.bert import EMBEDDINGS, block, masked_words
from foveal.weights.files import read_checkpoint, write_checkpoint, write_json
from foveal.weights.names import Renaming, Rule, load_strict, prefixed

KINDS = ("visual_bert",)

_BODY: list[Rule] = [
    *block("language.layers.*", "visual_bert.encoder.layer.*"),
    *prefixed(EMBEDDINGS, theirs="visual_bert."),
    ("connector.map.*", "visual_bert.embeddings.visual_projection.*"),
    ("fusion.types.weight", "visual_bert.embeddings.visual_token_type_embeddings.weight"),
    ("fusion.positions.weight", "visual_bert.embeddings.visual_position_embeddings.weight"),
    (None, "visual_bert.embeddings.visual_position_ids"),
]
_PRETRAINING: list[Rule] = [
    *masked_words("prediction"),
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
class _Kind:
    """An architecture: its heads (`num_labels` is filled in where None stands for labels) and their names."""

    heads: Mapping[str, Mapping[str, Any]]
    rules: list[Rule]


_KINDS = {
    "VisualBertForPreTraining": _Kind(
        heads={"prediction": {"name": "masked_language"}, "matching": {"name": "classification", "labels": 2}},
        rules=_PRETRAINING,
    ),
    "VisualBertForMultipleChoice": _Kind(heads={"answer": {"name": "classification", "labels": 1}}, rules=_POOLED),
    "VisualBertForVisualReasoning": _Kind(heads={"answer": {"name": "classification", "labels": None}}, rules=_POOLED),
    "VisualBertForQuestionAnswering": _Kind(
        heads={"answer": {"name": "token_classification", "labels": None}}, rules=_UNPOOLED
    ),
}


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
    if name not in _KINDS:
        raise unknown("architecture", name, _KINDS)
    return name


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours."""
    return Renaming([*_BODY, *_KINDS[architecture(config)].rules])


def _heads(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    labels = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    heads = {name: dict(head) for name, head in _KINDS[architecture(config)].heads.items()}
    for head in heads.values():
        if head["name"] == "masked_language":
            head |= {"activation": config.get("hidden_act", "gelu"), "eps": config.get("layer_norm_eps", 1e-12)}
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


class VisualBert(nn.Module):
    """A masked model called with the argument names of its reference; what it says is of the architecture's kind.

    Arguments: input_ids, visual_embeds, attention_mask, token_type_ids, position_ids, visual_attention_mask,
    visual_token_type_ids, image_text_alignment, labels, output_hidden_states. Raises InputError for features of
    another width or count.
    """

    def __init__(self, model: Masked, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.config = model, dict(config)

    def batch(self, input_ids: Tensor, visual_embeds: Tensor | None, **places: Tensor | None) -> Batch:
        """What the model reads, out of the reference's arguments."""
        return to_batch(input_ids, visual_embeds, width=self.model.config.features or 0, **places)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a checkpoint that `transformers` loads: config.json and the weights."""
        folder = Path(directory)
        write_checkpoint(folder, renaming(self.config).to_theirs(self.model.state_dict()))
        write_json(folder / "config.json", self.config)


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
        **places: Tensor | None,
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
            _same("labels", labels.shape[1], "words and regions", words.shape[1])
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
        **places: Tensor | None,
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
        **places: Tensor | None,
    ) -> VisualBertAnswer:
        """A score `[B C]` of each text; every argument has a place for each choice, as the reference's has."""
        flat = {name: given if given is None else given.flatten(0, 1) for name, given in places.items()}
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
        **places: Tensor | None,
    ) -> VisualBertAnswer:
        """Scores of the answers; with `labels`, their distribution, the logarithms of the chances and the divergence.

        Raises InputError for a text of a single word.
        """
        known = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        last = known.sum(1) - 2  # as the reference counts
        if (last < 0).any():
            raise InputError("a text of fewer than 2 tokens has none to score answers at; give the question whole")
        batch = self.batch(input_ids, visual_embeds, attention_mask=attention_mask, **places)
        where = torch.arange(batch.valid.shape[1], device=last.device) == last[:, None]
        output = self.model(batch, at={"answer": where}, keep_hidden=output_hidden_states)
        logits, loss = output.logits, None
        if labels is not None:
            logits = logits.log_softmax(-1)
            loss = F.kl_div(logits, labels, reduction="batchmean")
        return VisualBertAnswer(logits=logits, loss=loss, hidden_states=output.hidden_states)


_WRAPPERS = {
    "VisualBertForPreTraining": PreTraining,
    "VisualBertForVisualReasoning": VisualReasoning,
    "VisualBertForMultipleChoice": MultipleChoice,
    "VisualBertForQuestionAnswering": QuestionAnswering,
}


def to_batch(
    input_ids: Int[Tensor, "B L"],
    visual_embeds: Float[Tensor, "rows R E"] | None,
    *,
    width: int,
    attention_mask: Int[Tensor, "B L"] | None = None,
    token_type_ids: Int[Tensor, "B L"] | None = None,
    position_ids: Int[Tensor, "B L"] | None = None,
    visual_attention_mask: Int[Tensor, "B count"] | None = None,
    visual_token_type_ids: Int[Tensor, "B count"] | None = None,
    image_text_alignment: Int[Tensor, "B count A"] | None = None,
) -> Batch:
    """The batch of the reference's arguments: every row's words, then its regions, padding and all."""
    rows, length = input_ids.shape
    if visual_embeds is None:
        visual_embeds = torch.zeros(rows, 0, width, device=input_ids.device)
    count = visual_embeds.shape[1]
    _same("visual_embeds rows", visual_embeds.shape[0], "input_ids rows", rows)
    _same("visual_embeds width", visual_embeds.shape[2], "the checkpoint's visual_embedding_dim", width)
    regions = torch.arange(rows * count, device=input_ids.device).view(rows, count)
    words = torch.ones_like(input_ids)
    texts = torch.arange(length, device=input_ids.device).expand_as(input_ids)

    def beside(of_words: Tensor | None, of_regions: Tensor | None, word: Tensor, region: Tensor) -> Tensor:
        mine = word if of_words is None else of_words
        sight = region if of_regions is None else of_regions
        _same("region entries", sight.shape[1], "visual_embeds", count)
        return torch.cat([mine, sight], dim=1)

    valid = beside(attention_mask, visual_attention_mask, words, torch.ones_like(regions)).bool()
    alignment = image_text_alignment
    if alignment is not None:
        _same("image_text_alignment regions", alignment.shape[1], "visual_embeds", count)
    return Batch(
        input_ids=beside(input_ids, None, words, torch.zeros_like(regions)),
        valid=valid,
        prompt=valid,
        image_slot=torch.cat([torch.full_like(input_ids, -1), regions], dim=1),
        positions=beside(position_ids, None, texts, torch.zeros_like(regions)),
        types=beside(token_type_ids, visual_token_type_ids, torch.zeros_like(words), torch.ones_like(regions)),
        alignment=None if alignment is None else alignment.flatten(0, 1),
        visual=VisualTokens.on_layout(
            visual_embeds.flatten(0, 1), Layout(counts=(count,) * rows, grids=(None,) * rows)
        ),
        owner=torch.arange(rows, device=input_ids.device),
        begin=torch.zeros_like(input_ids[:, 0]),  # the reference pools column 0, padding or not
        full=bool(valid.all()),
    )


def _same(what: str, mine: int, other: str, theirs: int) -> None:
    if mine != theirs:
        raise InputError(f"{mine} {what} but {theirs} for {other}; give both as the checkpoint was made")


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
    state = read_checkpoint(Path(directory))
    load_strict(model, state, str(directory), renaming=renaming(config), dtype=dtype, device=device)
    return _WRAPPERS[architecture(config)](model, config).eval()
