"""ViLBERT's checkpoints called as their reference calls them (1908.02265; 12-in-1, 1912.02315)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.models.looks import Looks, looks
from foveal.models.masked import Masked
from foveal.weights.arguments import heeded, same, unneeded
from foveal.weights.bert import beside, readable
from foveal.weights.names import Renaming, apart
from foveal.weights.wrapper import Wrapper

PAIR = "vil_binary_prediction"  # told of two texts in turn
_BOX = 5
_CORNERS = "give x0 y0 x1 y1 as fractions, and the share of the image"
_LABELS = ("masked_lm_labels", "image_label", "image_target", "next_sentence_label")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a model came with: its config, its names, weights that nothing asks, and those that were `weight_norm`ed."""

    config: Mapping[str, Any]
    names: Renaming
    spare: Mapping[str, Tensor] = field(default_factory=dict)
    normed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VilbertOutput:
    """The reference's fields; R regions with the whole image first.

    `losses` are those of words, of regions and of the pair, each None without its labels, and `loss` their sum.
    """

    prediction_scores_t: Float[Tensor, "B L V"]
    prediction_scores_v: Float[Tensor, "B R K"]
    seq_relationship: Float[Tensor, "B 2"]
    pooled_t: Float[Tensor, "B P"]
    pooled_v: Float[Tensor, "B P"]
    sequence_t: Float[Tensor, "B L D"]
    sequence_v: Float[Tensor, "B R E"]
    losses: tuple[Float[Tensor, "1"] | None, ...] = (None, None, None)
    loss: Float[Tensor, ""] | None = None
    all_attention_mask: Looks | None = None


@dataclass(frozen=True, kw_only=True)
class VilbertTasksOutput(VilbertOutput):
    """The same and what tuned heads say; None where a checkpoint has none, or for pairs out of an odd batch.

    The reference's `linguisic_prediction` and `vision_prediction` are the two prediction scores.
    """

    vil_prediction: Float[Tensor, "B A"] | None = None
    vil_prediction_gqa: Float[Tensor, "B G"] | None = None
    vil_binary_prediction: Float[Tensor, "N 2"] | None = None
    vil_tri_prediction: Float[Tensor, "B 3"] | None = None
    vil_logit: Float[Tensor, "B 1"] | None = None
    vision_logit: Float[Tensor, "B R 1"] | None = None
    linguisic_logit: Float[Tensor, "B L 1"] | None = None


class Vilbert(Wrapper):
    """A masked model and what it came with."""

    def __init__(self, model: Masked, origin: Origin) -> None:
        super().__init__(model, origin.config, origin.names)
        self.origin = origin

    def theirs(self) -> dict[str, Tensor]:
        """The weights as the reference names them, with those that nothing asks."""
        return apart(super().theirs(), self.origin.normed) | dict(self.origin.spare)

    def batch(
        self,
        input_ids: Int[Tensor, "B L"],
        features: Float[Tensor, "rows R E"],
        boxes: Float[Tensor, "boxes places box"],
        **more: Any,
    ) -> Batch:
        """What the model reads, out of the reference's arguments (`bert.beside`); in `fast_mode` one text is all's.

        Raises InputError for features or boxes of other widths and for counts that differ.
        """
        kind, place = more["names"]
        features = readable(features, kind, model=self.model, width=self.model.config.features or 0)
        boxes = readable(boxes, place, model=self.model, width=_BOX, way=_CORNERS)
        if self.config.get("fast_mode") and len(input_ids) == 1:
            input_ids = input_ids.expand(len(features), -1)
            for name in ("words", "types"):
                more[name] = None if more[name] is None else more[name].expand(len(features), -1)
        return beside(input_ids, features, boxes, **more)

    def told(self, batch: Batch, *, maps: bool = False, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Every field of the output that needs no labels, of all the places that each has."""
        words = batch.image_slot < 0
        reads = {
            name: getattr(head, "reads", "words") for name, head in self.model.heads.items() if name not in without
        }
        output = self.model(batch, at={name: words if kind == "words" else None for name, kind in reads.items()})
        told: dict[str, Any] = {
            name: output.heads[name].unflatten(0, (len(words), -1)) if kind == "words" else output.heads[name]
            for name, kind in reads.items()
        }
        pooler: Any = self.model.heads["seq_relationship"]
        pooled_t, pooled_v = pooler.pooled(told["sequence_t"], told["sequence_v"][:, 0])
        length = told["sequence_t"].shape[1]
        shown = _of_words(looks(self.model, batch), length) if maps else None
        return {**told, "pooled_t": pooled_t, "pooled_v": pooled_v, "all_attention_mask": shown}


class PreTraining(Vilbert):
    """Called with the argument names of BertForMultiModalPreTraining."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        image_feat: Float[Tensor, "rows R E"],
        image_loc: Float[Tensor, "boxes places box"],
        token_type_ids: Int[Tensor, "lines kinds"] | None = None,
        attention_mask: Shaped[Tensor, "texts known"] | None = None,
        image_attention_mask: Shaped[Tensor, "images shown"] | None = None,
        *,
        output_all_attention_masks: bool = False,
        **labels: Any,
    ) -> VilbertOutput:
        """What both streams say, and the losses of the labels that are given.

        Labels are `masked_lm_labels[B L]` (-1 where none is wanted), `image_label[B R-1]` (1 for a hidden region) with
        `image_target[B R-1 K]`, and `next_sentence_label[B]` (0 for a pair). A loss of which nothing is wanted is 0
        (the reference's of words is NaN). Raises InputError for counts that differ, and for an argument that is not
        there or would change the answer.
        """
        labels = heeded(labels, _LABELS)
        masks = {"words": attention_mask, "seen": image_attention_mask, "types": token_type_ids}
        batch = self.batch(input_ids, image_feat, image_loc, names=("image_feat", "image_loc"), **masks)
        told = self.told(batch, maps=output_all_attention_masks)
        losses = self._losses(told, **labels)
        there = [loss for loss in losses if loss is not None]
        return VilbertOutput(**told, losses=losses, loss=torch.cat(there).sum() if there else None)

    def _losses(
        self,
        told: Mapping[str, Tensor],
        masked_lm_labels: Int[Tensor, "texts words"] | None = None,
        image_label: Int[Tensor, "images shown"] | None = None,
        image_target: Float[Tensor, "rows regions classes"] | None = None,
        next_sentence_label: Int[Tensor, "*pairs"] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        words = regions = pair = None
        if masked_lm_labels is not None:
            words = _missed("masked_lm_labels", masked_lm_labels, told["prediction_scores_t"])
        if (image_label is None) != (image_target is None):
            raise InputError("image_label and image_target tell one loss together; give both or neither")
        if image_label is not None and image_target is not None:
            kind = self.config.get("visual_target", 0)
            if kind not in (0, 1):
                raise InputError(f"visual_target {kind} compares with regions drawn by chance; leave image_target out")
            scores = told["prediction_scores_v"][:, 1:]  # all but the image as a whole
            same("image_label", list(image_label.shape), "places", list(scores.shape[:-1]))
            same("image_target", list(image_target.shape), "scores", list(scores.shape))
            squared = kind == 1 or self.config.get("predict_feature", False)
            regions = _off(scores, image_target, image_label == 1, squared=squared)
        if next_sentence_label is not None:
            pair = _missed("next_sentence_label", next_sentence_label.flatten(), told["seq_relationship"])
        return words, regions, pair


class Tasks(Vilbert):
    """Called with the argument names of VILBertForVLTasks, of either of its two forms."""

    def forward(
        self,
        input_txt: Int[Tensor, "B L"],
        input_imgs: Float[Tensor, "rows R E"],
        image_loc: Float[Tensor, "boxes places box"],
        token_type_ids: Int[Tensor, "lines kinds"] | None = None,
        attention_mask: Shaped[Tensor, "texts known"] | None = None,
        image_attention_mask: Shaped[Tensor, "images shown"] | None = None,
        co_attention_mask: Shaped[Tensor, "*pairs"] | None = None,
        task_ids: Int[Tensor, "*asked"] | None = None,
        output_all_attention_masks: bool = False,
        **idle: Any,
    ) -> VilbertTasksOutput:
        """What the tuned heads say; the reference makes nothing of `co_attention_mask`, and neither does this.

        `task_ids` of a checkpoint that tells tasks apart stand after each text's first token, in every field of words.
        Raises InputError for counts that differ, for missing tasks or those that the checkpoint does not know, and for
        an argument that is not there or would change the answer.
        """
        unneeded(idle, self.forward)
        masks = {"words": attention_mask, "seen": image_attention_mask, "types": token_type_ids}
        batch = self.batch(input_txt, input_imgs, image_loc, names=("input_imgs", "image_loc"), **masks)
        marks = getattr(self.model.language, "marks", None)
        if marks is not None:
            batch = _marked(batch, task_ids, first=self.model.language.vocabulary, count=marks.num_embeddings)
        odd = (PAIR,) if len(batch.input_ids) % 2 else ()
        told = self.told(batch, maps=output_all_attention_masks, without=odd)
        if "vision_logit" in told and image_attention_mask is not None:
            told["vision_logit"] = (
                told["vision_logit"] - 1e4 * (1 - image_attention_mask.to(told["vision_logit"]))[..., None]
            )
        return VilbertTasksOutput(**told)


def _missed(name: str, right: Int[Tensor, "*given"], scores: Float[Tensor, "*places K"]) -> Float[Tensor, "1"]:
    """Mean nats from the right class, over the places that want one; 0 where none does."""
    same(name, list(right.shape), "places", list(scores.shape[:-1]))
    right = right.masked_fill(right < 0, IGNORE).flatten()
    off = F.cross_entropy(scores.flatten(0, -2), right, ignore_index=IGNORE, reduction="sum")
    return (off / (right != IGNORE).sum().clamp(min=1))[None]


def _off(
    scores: Float[Tensor, "B R K"], target: Float[Tensor, "B R K"], hidden: Bool[Tensor, "B R"], *, squared: bool
) -> Float[Tensor, "1"]:
    """How far the hidden regions' scores are from the target: in nats, or by the mean square."""
    if squared:
        off = (scores - target).square().mean(-1)
    else:
        off = F.kl_div(scores.log_softmax(-1), target, reduction="none").sum(-1)
    return ((off * hidden).sum() / hidden.sum().clamp(min=1))[None]


def _marked(batch: Batch, tasks: Tensor | None, *, first: int, count: int) -> Batch:
    """The batch with each row's task after its first token; it has neither place nor type."""
    rows = len(batch.input_ids)
    if tasks is None or tasks.numel() != rows:
        given = "no" if tasks is None else tasks.numel()
        raise InputError(f"{given} task_ids but {rows} texts for a checkpoint that tells tasks apart; give one to each")
    if int(tasks.min()) < 0 or int(tasks.max()) >= count:
        raise InputError(f"task {int(tasks.max())} but the checkpoint knows {count}; give one from 0 to {count - 1}")
    task = first + tasks.view(rows, 1)
    nothing = torch.zeros_like(task)

    def put(values: Tensor, new: Tensor) -> Tensor:
        return torch.cat([values[:, :1], new.to(values.dtype), values[:, 1:]], 1)

    valid = put(batch.valid, nothing + 1)
    return replace(
        batch,
        input_ids=put(batch.input_ids, task),
        valid=valid,
        prompt=valid,
        image_slot=put(batch.image_slot, nothing - 1),
        positions=None if batch.positions is None else put(batch.positions, nothing),
        types=None if batch.types is None else put(batch.types, nothing),
    )


def _of_words(shown: Looks, length: int) -> Looks:
    """The maps without the places of regions among the words."""
    return replace(
        shown,
        words=tuple(share[:, :, :length, :length] for share in shown.words),
        to_sight=tuple(share[:, :, :length] for share in shown.to_sight),
        to_words=tuple(share[..., :length] for share in shown.to_words),
    )
