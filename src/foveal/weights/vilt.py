"""ViLT checkpoints of Hugging Face (2102.03334): words and patches in one pre-norm transformer, without an encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Grid, Layout, Pixels, VisualTokens
from foveal.models.assembly import empty
from foveal.models.config import ModelConfig
from foveal.models.parts import flow
from foveal.weights.arguments import unneeded
from foveal.weights.bert import fit_words, joined
from foveal.weights.files import check_class, read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict, prefixed
from foveal.weights.wrapper import Wrapper

KINDS = ("vilt",)

_BODY: list[Rule] = [
    ("language.layers.*.attention.out.*", "encoder.layer.*.attention.output.dense.*"),
    ("language.layers.*.attention.*.*", "encoder.layer.*.attention.attention.*.*"),
    ("language.layers.*.attention_norm.*", "encoder.layer.*.layernorm_before.*"),
    ("language.layers.*.feed_norm.*", "encoder.layer.*.layernorm_after.*"),
    ("language.layers.*.feed.up.*", "encoder.layer.*.intermediate.dense.*"),
    ("language.layers.*.feed.down.*", "encoder.layer.*.output.dense.*"),
    ("language.embedding.weight", "embeddings.text_embeddings.word_embeddings.weight"),
    ("language.positions.weight", "embeddings.text_embeddings.position_embeddings.weight"),
    ("language.types.weight", "embeddings.text_embeddings.token_type_embeddings.weight"),
    ("language.input_norm.*", "embeddings.text_embeddings.LayerNorm.*"),
    ("language.last_norm.*", "layernorm.*"),
    ("vision.patches.*", "embeddings.patch_embeddings.projection.*"),
    ("vision.class_token", "embeddings.cls_token"),
    ("vision.positions", "embeddings.position_embeddings"),
    ("fusion.modalities.weight", "embeddings.token_type_embeddings.weight"),
    (None, ("embeddings.text_embeddings.position_ids", "embeddings.text_embeddings.token_type_ids")),
]
_HEADS: list[Rule] = [
    ("heads.words.transform.*", "mlm_score.transform.dense.*"),
    ("heads.words.norm.*", "mlm_score.transform.LayerNorm.*"),
    ("heads.words.table", "mlm_score.decoder.weight"),
    ("heads.words.bias", ("mlm_score.decoder.bias", "mlm_score.bias")),
    ("heads.answer.up.*", "classifier.0.*"),
    ("heads.answer.inner_norm.*", "classifier.1.*"),
    ("heads.answer.classes.*", "classifier.3.*"),
    ("heads.rank.classes.*", "rank_output.*"),
]
_CLASSES = (
    "ViltModel", "ViltForMaskedLM", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval",
)  # fmt: skip
_POOLER = {"answer": "answer", "rank": "rank"}  # which head holds the reference's pooler; else it stands by itself


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a ViLT."""
    return config.get("model_type") in KINDS


def heads_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The heads of a checkpoint, told by its weights; the first is the one that it was trained for."""
    act, eps = config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
    if "classifier.3.weight" in state:
        return {"answer": {"name": "mlp_classification", "labels": len(state["classifier.3.weight"])}}
    if "rank_output.weight" in state:
        return {"rank": {"name": "classification", "labels": len(state["rank_output.weight"])}}
    pooled = {"pooled": "pooled"} if {"pooler.dense.weight", "vilt.pooler.dense.weight"} & state.keys() else {}
    if "mlm_score.transform.dense.weight" in state:
        return {"words": {"name": "masked_language", "activation": act, "eps": eps}, **pooled}
    return {"states": "states", **pooled}


def renaming(heads: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours, for a model with these heads."""
    first = next(iter(heads))
    pooler: Rule = (f"heads.{_POOLER.get(first, 'pooled')}.pool.*", "pooler.dense.*")
    body = prefixed([*_BODY, pooler], theirs=("", "vilt.") if first == "states" else ("vilt.", ""))
    return Renaming([*body, *_HEADS])


def model_config(config: Mapping[str, Any], heads: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for a ViLT config.json, with the reference's defaults."""
    if not config.get("qkv_bias", True):
        raise InputError("qkv_bias false is not supported; ViLT's checkpoints have these biases")
    width, patch, side = config.get("hidden_size", 768), config.get("patch_size", 32), config.get("image_size", 384)
    language = {
        "name": "encoder",
        "vocabulary": config.get("vocab_size", 30522),
        "width": width,
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "inner": config.get("intermediate_size", 3072),
        "context": config.get("max_position_embeddings", 40),
        "types": config.get("type_vocab_size", 2),
        "activation": config.get("hidden_act", "gelu"),
        "eps": config.get("layer_norm_eps", 1e-12),
        "pre_norm": True,
    }
    patches = {"width": width, "patch": patch, "image_size": side, "channels": config.get("num_channels", 3)}
    return ModelConfig.parse(
        {
            "assembly": "masked",
            "vision": {"name": "patches", **patches, "positions": True},
            "connector": "identity",
            "fusion": {"name": "prefix", "modalities": config.get("modality_type_vocab_size", 2)},
            "language": language,
            "heads": dict(heads),
        }
    )


@dataclass(frozen=True, kw_only=True)
class ViltOutput:
    """The reference's fields, words first, then the class token and the patches in raster order, not in its random one.

    What a checkpoint has no head for is None; `hidden_states` are None where they were not asked for.
    """

    last_hidden_state: Float[Tensor, "B L D"]
    pooler_output: Float[Tensor, "B D"] | None = None
    logits: Float[Tensor, "*batch K"] | None = None
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Vilt(Wrapper):
    """A masked model called with the argument names of ViltModel and those of the models built on it."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Shaped[Tensor, "texts known"] | None = None,
        token_type_ids: Int[Tensor, "lines kinds"] | None = None,
        pixel_values: Float[Tensor, "I C H W"] | None = None,
        pixel_mask: Shaped[Tensor, "I h w"] | None = None,
        *,
        image_token_type_idx: int = 1,
        labels: Shaped[Tensor, "B *more"] | None = None,
        output_hidden_states: bool = False,
        **idle: Any,
    ) -> ViltOutput:
        """States of words and patches, and what the checkpoint's head says of them.

        `labels` are words (IGNORE where none is wanted) or, for answers, a score of each. Raises InputError where
        there is no image for each text, for counts that differ, and for an argument that would change the answer.
        """
        unneeded(idle, self.forward)
        if pixel_values is None or len(pixel_values) != len(input_ids):
            given = 0 if pixel_values is None else len(pixel_values)
            raise InputError(f"{given} images for {len(input_ids)} texts; ViLT reads one with each: give pixel_values")
        seen = self._seen(pixel_values, pixel_mask)
        batch = beside(input_ids, attention_mask, token_type_ids, seen, kind=image_token_type_idx)
        stream = self.model.fusion.at_input(self.model.language.open(batch), self.model.see(batch))
        stream, states = flow(stream, language=self.model.language, fusion=self.model.fusion, keep_hidden=True)
        hidden, told = self.model.language.norm(stream.hidden), {}
        for name, head in self.model.heads.items():
            told[name] = head(hidden[:, : input_ids.shape[1]] if name == "words" else hidden)
        logits = next((told[name] for name in ("words", "answer", "rank") if name in told), None)
        return ViltOutput(
            last_hidden_state=hidden,
            pooler_output=told.get("pooled"),
            logits=logits,
            loss=None if labels is None else self._loss(logits, labels),
            hidden_states=(*states, stream.hidden) if output_hidden_states else None,
        )

    def _seen(self, pixels: Float[Tensor, "I C H W"], mask: Shaped[Tensor, "I h w"] | None) -> VisualTokens:
        """The patches of each image without its padding, which lies at its right and below."""
        vision, most = self.model.vision, self.config.get("max_image_length", -1)
        assert vision is not None
        patch = self.config.get("patch_size", 32)
        parts = []
        for image, (rows, columns) in zip(pixels, _grids(pixels, mask, patch), strict=True):
            if isinstance(most, int) and 0 <= most < rows * columns:
                raise InputError(
                    f"{rows} x {columns} patches where the config's max_image_length allows {most} of them drawn by "
                    "chance; give a smaller image, or set it to -1"
                )
            parts.append(vision(Pixels.whole(image[None, :, : rows * patch, : columns * patch])))
        counts = tuple(part.layout.total for part in parts)
        layout = Layout(counts=counts, grids=(None,) * len(parts))
        return VisualTokens.on_layout(torch.cat([part.features for part in parts]), layout)

    def _loss(self, logits: Tensor | None, labels: Tensor) -> Float[Tensor, ""]:
        if logits is None or "rank" in self.model.heads:
            raise InputError("labels for a checkpoint that has no loss; give them to one for words or answers")
        if "words" in self.model.heads:
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        return F.binary_cross_entropy_with_logits(logits, labels) * labels.shape[1]


def _grids(pixels: Float[Tensor, "I C H W"], mask: Shaped[Tensor, "I h w"] | None, patch: int) -> list[Grid]:
    """Rows and columns of whole patches of each image, by the first column and row of its mask."""
    whole = pixels.shape[2] // patch, pixels.shape[3] // patch
    if mask is None:
        return [whole] * len(pixels)
    shown = F.interpolate(mask[:, None].float(), size=whole)[:, 0]
    return [(int(one[:, 0].sum()), int(one[0].sum())) for one in shown]


def beside(
    words: Int[Tensor, "B L"],
    mask: Shaped[Tensor, "texts known"] | None,
    types: Int[Tensor, "lines kinds"] | None,
    seen: VisualTokens,
    *,
    kind: int = 1,
) -> Batch:
    """Every row's words and then its image, padded to the largest of the batch; `kind` is the image's modality.

    Raises InputError for counts that differ.
    """
    fit_words(words, {"a mask of words": mask, "token types": types})
    counts, offsets = seen.layout.counts, seen.layout.offsets
    slots = torch.full((len(counts), max(counts)), -1, device=words.device)
    for row, (count, begin) in enumerate(zip(counts, offsets[:-1], strict=True)):
        slots[row, :count] = torch.arange(begin, begin + count)
    shown = slots >= 0
    return joined(words, seen, slots, words=mask, seen=shown, types=types, kinds=kind * shown.long())


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Vilt:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for a class that is not there and for a missing, unexpected or mis-shaped weight.
    """
    check_class(config, _CLASSES)
    state = read_checkpoint(Path(directory))
    heads = heads_of(config, state)
    model = empty(model_config(config, heads))
    names = renaming(heads)
    load_strict(model, state, str(directory), renaming=names, dtype=dtype, device=device)
    return Vilt(model, config, names).eval()
