"""BEiT-3 checkpoints of torchscale and unilm (2208.10442): words and patches in one multiway encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels, VisualTokens
from foveal.models.assembly import empty
from foveal.models.config import ModelConfig
from foveal.models.masked import Masked
from foveal.weights.arguments import same, unneeded
from foveal.weights.files import read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict, prefixed
from foveal.weights.wrapper import Wrapper

KINDS = ("beit3",)

_EXPERTS = {"sight": "A", "words": "B"}
_LAYER = {
    "attention_norm": "self_attn_layer_norm.{}",
    "query": "self_attn.q_proj.{}",
    "key": "self_attn.k_proj.{}",
    "value": "self_attn.v_proj.{}",
    "mixed_norm": "self_attn.inner_attn_ln.{}",
    "out": "self_attn.out_proj.{}",
    "feed_norm": "final_layer_norm.{}",
    "up": "ffn.{}.fc1",
    "inner_norm": "ffn.{}.ffn_layernorm",
    "down": "ffn.{}.fc2",
}
_EMBEDDINGS: list[Rule] = [
    ("language.embedding.weight", "text_embed.weight"),
    ("vision.patches.*", "vision_embed.proj.*"),
    ("vision.class_token", "vision_embed.cls_token"),
    ("fusion.mask", "vision_embed.mask_token"),
    ("fusion.positions.weight", "encoder.embed_positions.A.weight"),
    ("language.positions.weight", "encoder.embed_positions.B.weight"),
]
_HEADS: list[Rule] = [
    ("heads.answer.norm.*", "pooler.norm.*"),
    ("heads.answer.pool.*", "pooler.dense.*"),
    ("heads.answer.up.*", "head.0.*"),
    ("heads.answer.inner_norm.*", "head.1.*"),
    ("heads.answer.classes.*", "head.3.*"),
    ("heads.pair.sight.weight", "vision_head.weight"),
    ("heads.pair.words.weight", "language_head.weight"),
    ("heads.pair.scale", "logit_scale"),
    ("heads.words.map.*", "mlm_head.*"),
]
# Parts of torchscale's encoder that no published BEiT-3 has, with the value that leaves each out.
_ABSENT = {
    "deepnorm": False,
    "xpos_rel_pos": False,
    "rel_pos_buckets": 0,
    "moe_freq": 0,
    "share_encoder_input_output_embed": False,
    "no_scale_embedding": True,
    "encoder_normalize_before": True,
}


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a BEiT-3."""
    return config.get("model_type") in KINDS or bool(config.get("multiway") and "encoder_embed_dim" in config)


def renaming(config: Mapping[str, Any], *, tuned: bool = False) -> Renaming:
    """Between the reference's weight names and ours; both spellings, of torchscale and of a `tuned` model, are read."""
    last = config.get("encoder_layers", 12) - 1
    rules = list(_EMBEDDINGS)
    for ours, theirs in _EXPERTS.items():
        for mine, yours in _LAYER.items():
            rules.append((f"language.layers.*.{ours}.{mine}.*", f"encoder.layers.*.{yours.format(theirs)}.*"))
        rules.append((f"language.{ours}_norm.*", f"encoder.layernorm_embedding.{theirs}.*"))
        rules.append((f"language.layers.{last}.{ours}.last_norm.*", f"encoder.layer_norm.{theirs}.*"))
    return Renaming([*prefixed(rules, theirs=("beit3.", "") if tuned else ("", "beit3.")), *_HEADS])


def heads_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The head that a checkpoint of unilm was tuned with, told by its weights; the states alone for one of none."""
    if "language_head.weight" in state:
        return {"pair": "contrastive"}
    if "head.3.weight" in state:
        return {"answer": {"name": "mlp_classification", "labels": len(state["head.3.weight"]), "pre_norm": True}}
    if "mlm_head.weight" in state:
        return {"words": {"name": "language_model", "bias": True}}
    return {"states": "states"}


def model_config(config: Mapping[str, Any], heads: Mapping[str, Any] | None = None) -> ModelConfig:
    """The rooms' components for a config of the reference, with its defaults. Raises InputError for other parts."""
    for key, value in _ABSENT.items():
        if config.get(key, value) != value:
            raise InputError(f"{key} {config[key]!r} is not supported; BEiT-3 has {value!r}")
    width, side, patch = config.get("encoder_embed_dim", 768), config.get("img_size", 224), config.get("patch_size", 16)
    language = {
        "name": "multiway",
        "vocabulary": config["vocab_size"],
        "width": width,
        "depth": config.get("encoder_layers", 12),
        "heads": config.get("encoder_attention_heads", 12),
        "inner": config.get("encoder_ffn_embed_dim", 3072),
        "context": config.get("max_source_positions", 1024) - 2,
        "activation": config.get("activation_fn", "gelu"),
        "eps": config.get("layernorm_eps", 1e-5),
        "sub_norm": config.get("subln", True),
        "input_norm": config.get("layernorm_embedding", False),
        "last_norm": config.get("normalize_output", True),
    }
    patches = {"width": width, "patch": patch, "image_size": side, "channels": config.get("in_chans", 3)}
    return ModelConfig.parse(
        {
            "assembly": "masked",
            "vision": {"name": "patches", **patches},
            "connector": "identity",
            "fusion": {"name": "prefix", "positions": (side // patch) ** 2 + 1, "mask": True},
            "language": language,
            "heads": dict(heads or heads_of({})),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Beit3Output:
    """The reference's fields, which it gives as a dictionary: by attribute or by key."""

    encoder_out: Float[Tensor, "B L D"]
    encoder_padding_mask: Bool[Tensor, "B L"]
    multiway_split_position: int
    hidden_states: tuple[Tensor, ...] | None = None

    def __getitem__(self, name: str) -> Any:
        """A field by its name."""
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class Beit3Logits:
    """What a tuned head says."""

    logits: Float[Tensor, "*batch K"]


@dataclass(frozen=True, kw_only=True)
class Beit3Pairs:
    """Vectors for retrieval, under the reference's names; None where there was no image or no text."""

    vision_cls: Float[Tensor, "I K"] | None
    language_cls: Float[Tensor, "B K"] | None
    loss: Float[Tensor, ""] | None = None


class Beit3(Wrapper):
    """Called with the argument names of torchscale's BEiT3."""

    def forward(
        self,
        textual_tokens: Int[Tensor, "B L"] | None = None,
        visual_tokens: Float[Tensor, "I C H W"] | None = None,
        text_padding_position: Shaped[Tensor, "rows count"] | None = None,
        attn_mask: Shaped[Tensor, "M M"] | None = None,
        vision_masked_position: Shaped[Tensor, "images patches"] | None = None,
        *,
        output_hidden_states: bool = False,
        **idle: Any,
    ) -> Beit3Output:
        """The states of patches (class token first), then words; either may be missing.

        `text_padding_position` marks padding by 1, `attn_mask` what must not be seen, `vision_masked_position` the
        patches that are hidden. Raises InputError for counts that differ, for a mask that is no order of tokens and for
        an argument that would change the answer.
        """
        unneeded(idle, self.forward)
        batch = to_batch(self.model, textual_tokens, visual_tokens, text_padding_position)
        if attn_mask is not None:
            batch = replace(batch, order=_order(attn_mask, batch))
        if vision_masked_position is not None:
            batch = replace(batch, visual=_hidden(self.model, batch, vision_masked_position))
        output = self.model(batch, keep_hidden=output_hidden_states)
        patches = int((batch.image_slot[:1] >= 0).sum())
        return Beit3Output(
            encoder_out=output.heads["states"],
            encoder_padding_mask=~batch.valid,
            multiway_split_position=-1 if textual_tokens is None else patches,
            hidden_states=output.hidden_states,
        )


class QuestionAnswering(Wrapper):
    """Called with the argument names of unilm's BEiT3ForVisualQuestionAnswering."""

    def forward(
        self,
        image: Float[Tensor, "I C H W"],
        question: Int[Tensor, "B L"],
        padding_mask: Shaped[Tensor, "rows count"] | None = None,
    ) -> Beit3Logits:
        """A score `[B K]` of each answer, read off the class token."""
        return Beit3Logits(logits=self.model(to_batch(self.model, question, image, padding_mask)).logits)


class Captioning(Wrapper):
    """Called with the argument names of unilm's BEiT3ForCaptioning."""

    def forward(
        self,
        image: Float[Tensor, "I C H W"],
        text_ids: Int[Tensor, "B L"],
        padding_mask: Shaped[Tensor, "rows count"] | None = None,
        language_masked_pos: Shaped[Tensor, "places words"] | None = None,
    ) -> Beit3Logits:
        """Scores of the words, `[B L V]` or `[N V]` where `language_masked_pos` marks them; none sees a later one."""
        batch = to_batch(self.model, text_ids, image, padding_mask)
        order = ((batch.image_slot < 0).cumsum(1)).to(batch.input_ids.dtype)
        where = batch.image_slot < 0
        if language_masked_pos is not None:
            same("language_masked_pos entries", language_masked_pos.shape[1], "text_ids", text_ids.shape[1])
            where[:, -text_ids.shape[1] :] &= language_masked_pos.bool()
        logits = self.model(replace(batch, order=order), at={"words": where}).logits
        return Beit3Logits(logits=logits if language_masked_pos is not None else logits.view(*text_ids.shape, -1))


class Retrieval(Wrapper):
    """Called with the argument names of unilm's BEiT3ForRetrieval: two towers of one encoder."""

    def forward(
        self,
        image: Float[Tensor, "I C H W"] | None = None,
        text_description: Int[Tensor, "B L"] | None = None,
        padding_mask: Shaped[Tensor, "rows count"] | None = None,
        only_infer: bool = False,
    ) -> Beit3Pairs:
        """Vectors of length 1 of the images and of the texts; where both are given (`only_infer` unset) their loss."""
        sight = None if image is None else self._vectors(to_batch(self.model, None, image))[:, 0]
        words = None
        if text_description is not None:
            words = self._vectors(to_batch(self.model, text_description, None, padding_mask))[:, 1]
        loss = None
        if not only_infer and sight is not None and words is not None:
            same("text_description rows", len(words), "image rows", len(sight))
            logits, right = sight @ words.T, torch.arange(len(sight), device=sight.device)
            loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        return Beit3Pairs(
            vision_cls=None if sight is None else F.normalize(sight, dim=-1),
            language_cls=None if words is None else F.normalize(words, dim=-1),
            loss=loss,
        )

    def _vectors(self, batch: Batch) -> Float[Tensor, "B 2 K"]:
        first = torch.zeros_like(batch.valid)
        first[:, 0] = True
        return self.model(batch, at={"pair": first}).logits


_WRAPPERS = {"states": Beit3, "answer": QuestionAnswering, "words": Captioning, "pair": Retrieval}


def to_batch(
    model: Masked,
    words: Int[Tensor, "B L"] | None,
    pixels: Float[Tensor, "I C H W"] | None,
    padding: Shaped[Tensor, "rows count"] | None = None,
) -> Batch:
    """The batch of the reference's arguments: every row's patches, then its words, padding and all."""
    if words is None and pixels is None:
        raise InputError("neither words nor pixels; give textual_tokens, visual_tokens or both")
    given = words if pixels is None else pixels
    assert given is not None
    rows, device, count = len(given), given.device, 0
    if words is None:
        words = torch.zeros(rows, 0, dtype=torch.long, device=device)
    if pixels is not None:
        same("textual_tokens rows", len(words), "visual_tokens rows", rows)
        count = model.plan([(pixels.shape[2], pixels.shape[3])] * rows).counts[0]
    if padding is not None:
        same("text_padding_position entries", padding.shape[1], "textual_tokens", words.shape[1])
    valid = torch.ones_like(words, dtype=torch.bool) if padding is None else ~padding.bool()
    slots = torch.arange(rows * count, device=device).view(rows, count)
    valid = torch.cat([torch.ones_like(slots, dtype=torch.bool), valid], dim=1)
    return Batch(
        input_ids=torch.cat([torch.zeros_like(slots), words], dim=1),
        valid=valid,
        prompt=valid,
        image_slot=torch.cat([slots, torch.full_like(words, -1)], dim=1),
        visual=None if pixels is None else Pixels.whole(pixels),
        owner=torch.arange(rows, device=device),
        full=bool(valid.all()),
    )


def _order(mask: Tensor, batch: Batch) -> Int[Tensor, "B L"]:
    """The order by which tokens see those of their own or a lower one; a mask of another kind has none."""
    length = batch.input_ids.shape[1]
    if tuple(mask.shape) != (length, length):
        raise InputError(f"attn_mask {list(mask.shape)} for {length} tokens; give one row and one column to each")
    seen = ~mask.bool()
    order = seen.sum(1)
    if not torch.equal(order[None, :] <= order[:, None], seen):
        raise InputError("attn_mask lets tokens see others in no order; let each see all of its own or an earlier one")
    return order.expand_as(batch.input_ids)


def _hidden(model: Masked, batch: Batch, masked: Tensor) -> VisualTokens:
    seen = model.look(batch)
    if seen is None:
        raise InputError("vision_masked_position without visual_tokens; give both")
    rows = len(seen.layout.counts)
    patches = seen.layout.counts[0] - 1
    if tuple(masked.shape) != (rows, patches):
        raise InputError(f"vision_masked_position {list(masked.shape)} for {rows} images of {patches} patches")
    return replace(seen, masked=F.pad(masked.bool(), (1, 0)).flatten())


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Wrapper:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for a missing, unexpected or mis-shaped weight.
    """
    state = read_checkpoint(Path(directory))
    heads = heads_of(state)
    model = empty(model_config(config, heads))
    load_strict(model, state, str(directory), renaming=renaming(config), dtype=dtype, device=device)
    wrapper = _WRAPPERS[next(iter(heads))]
    return wrapper(model, config, renaming(config, tuned=wrapper is not Beit3)).eval()
