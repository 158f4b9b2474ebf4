"""BLIP-2's first stage as Hugging Face keeps it: which texts and images belong together (2301.12597)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.models.assembly import empty
from foveal.models.config import ModelConfig
from foveal.models.two_tower import Pairs, TwoTower
from foveal.vision.vit import Vit
from foveal.weights.arguments import same, unneeded
from foveal.weights.decoder import reference_config
from foveal.weights.files import read_checkpoint
from foveal.weights.names import Change, Renaming, load_strict
from foveal.weights.qformer import (
    LEADING,
    QformerOutput,
    check_queries,
    check_size,
    layer_rules,
    stack_settings,
    tower_output,
    tower_rules,
    tower_settings,
    word_rules,
)
from foveal.weights.vision_towers import TowerOutput
from foveal.weights.wrapper import Wrapper

KINDS = ("blip-2",)
CLASS = "Blip2ForImageTextRetrieval"


def _turned(rows: Tensor) -> Tensor:
    return rows.flip(0)


TURNED: Change = (_turned, _turned)  # of two classes theirs puts what belongs second, ours first


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a BLIP-2 that compares."""
    return config.get("model_type") in KINDS and CLASS in (config.get("architectures") or ())


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours; it has no temperature, which is a logit scale of zero."""
    return Renaming(
        [
            ("language.queries", "query_tokens"),
            ("language.stack.norm.*", "qformer.layernorm.*"),
            *word_rules("language.words", "embeddings"),
            *layer_rules("language.stack.layers.*", "qformer.encoder.layer.*"),
            ("heads.pair.sight.*", "vision_projection.*"),
            ("heads.pair.words.*", "text_projection.*"),
            ("heads.matching.classes.*", "itm_head.*"),
            *tower_rules(),
        ],
        leading=LEADING,
        lacking=["heads.pair.scale"],
        changed={"itm_head.*": TURNED},
    )


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for the reference's config. Raises InputError for queries that read no text."""
    given = reference_config(config)
    words = given.qformer_config
    if not words.use_qformer_text_input:
        raise InputError("qformer_config.use_qformer_text_input is false, so its layers read no text; set it to true")
    return ModelConfig.parse(
        {
            "assembly": "two_tower",
            "vision": tower_settings(given.vision_config),
            "connector": None,
            "language": {
                "name": "qformer",
                "vocabulary": words.vocab_size,
                "context": words.max_position_embeddings,
                "queries": given.num_query_tokens,
                **stack_settings(words),
            },
            "heads": {
                "pair": {"name": "contrastive", "size": given.image_text_hidden_size, "bias": True},
                "matching": "averaged",
            },
        }
    )


@dataclass(frozen=True, kw_only=True)
class PairsOutput:
    """The reference's fields. Of pairs that are matched, `text_embeds` and `image_embeds` are states, no vectors."""

    logits_per_image: Float[Tensor, "rows columns"]
    logits_per_text: Float[Tensor, "columns rows"]
    text_embeds: Tensor
    image_embeds: Tensor
    text_model_output: QformerOutput
    vision_model_output: TowerOutput
    loss: None = None


class ImageTextRetrieval(Wrapper):
    """Called with the argument names of Blip2ForImageTextRetrieval."""

    model: TwoTower  # type: ignore[assignment]

    def forward(
        self,
        pixel_values: Float[Tensor, "I C H W"],
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        use_image_text_matching_head: bool = False,
        **idle: Any,
    ) -> PairsOutput:
        """How well each image fits each text, the best of its queries' cosines `[I B]`; with
        `use_image_text_matching_head` of each pair whether it belongs, `[B 2]`: class 1 says so.

        Raises InputError for images of another size than the tower's, for other numbers of images than of texts that
        are matched, for a text that lacks the image tokens that the config tells of, and for an argument that would
        change the answer.
        """
        unneeded(idle, self.forward)
        model = self.model
        assert isinstance(model.vision, Vit)
        check_size(pixel_values, side=model.vision.image_size, way="resize it")
        if use_image_text_matching_head:
            same("images", len(pixel_values), "texts", len(input_ids))
        seen = model.vision(Pixels.whole(pixel_values))
        ids, valid = self._words(input_ids, attention_mask)
        rows = torch.arange(max(len(pixel_values), len(ids)), device=ids.device)
        text = rows.clamp(max=len(ids) - 1)
        pairs = Pairs(
            seen=model.language.read(seen),  # type: ignore[operator]
            image=rows.clamp(max=len(pixel_values) - 1),
            ids=ids[text],
            valid=valid[text],
            labels=None,
        )
        told = tower_output(seen, model.vision)
        if use_image_text_matching_head:
            return self._matched(pairs, told)
        return self._compared(pairs, told, images=len(pixel_values), texts=len(ids))

    def _words(
        self, ids: Int[Tensor, "B L"], mask: Int[Tensor, "B L"] | None
    ) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """The text alone: a processor may put as many image tokens before it as there are queries."""
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        marker = self.config.get("image_token_index", self.config.get("image_token_id"))
        if marker is None:
            return ids, valid
        count = len(self.model.language.queries)  # type: ignore[arg-type]
        if not bool((ids[:, :count] == marker).all()):
            raise InputError(
                f"image_token_index is {marker}, but some text does not begin with {count} of it; "
                "give input_ids as the checkpoint's processor returns them"
            )
        return ids[:, count:], valid[:, count:]

    def _matched(self, pairs: Pairs, told: TowerOutput) -> PairsOutput:
        queries, words = self.model.states(pairs, sees="all")
        logits, states = self.model.heads["matching"](queries).flip(-1), torch.cat([queries, words], dim=1)
        return PairsOutput(
            logits_per_image=logits,
            logits_per_text=logits.T,
            text_embeds=states,
            image_embeds=told.last_hidden_state,
            text_model_output=_said(states),
            vision_model_output=told,
        )

    def _compared(self, pairs: Pairs, told: TowerOutput, *, images: int, texts: int) -> PairsOutput:
        queries, words = self.model.states(pairs, sees="own")
        head, words = self.model.heads["pair"], words[:texts]
        sight = F.normalize(head(queries[:images])[..., 0, :], dim=-1)
        text = F.normalize(head(words[:, 0])[..., 1, :], dim=-1)
        logits = (sight @ text.T).amax(1)
        return PairsOutput(
            logits_per_image=logits,
            logits_per_text=logits.T,
            text_embeds=text,
            image_embeds=sight,
            text_model_output=_said(words),
            vision_model_output=told,
        )


def _said(states: Float[Tensor, "B N D"]) -> QformerOutput:
    return QformerOutput(last_hidden_state=states, pooler_output=states[:, 0])


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ImageTextRetrieval:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for an unsupported part and for a missing, unexpected or mis-shaped weight.
    """
    state = read_checkpoint(directory)
    check_queries(state, config, str(directory))
    return filled(model_config(config), state, config, renaming(config), str(directory), dtype=dtype, device=device)


def filled(
    described: ModelConfig,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    names: Renaming,
    where: str,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> ImageTextRetrieval:
    """The model with exactly these weights. Raises InputError for a missing, unexpected or mis-shaped one."""
    model = empty(described)
    load_strict(model, state, where, renaming=names, dtype=dtype, device=device)
    return ImageTextRetrieval(model, config, names).eval()
