"""What checkpoints with a Q-Former share (BLIP-2, 2301.12597): names, settings, and how their models are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.connectors.qformer import Qformer
from foveal.core.errors import InputError
from foveal.core.types import Batch, Output, VisualTokens
from foveal.vision.vit import Vit
from foveal.weights import decoder, opt
from foveal.weights.huggingface import HuggingFaceCausal
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.refusals import instead
from foveal.weights.vision_towers import TowerOutput

_TOWER: list[Rule] = [
    ("patches.*", "embeddings.patch_embedding.*"),
    ("class_token", "embeddings.class_embedding"),
    ("positions", "embeddings.position_embedding"),
    ("blocks.*.attention_norm.*", "encoder.layers.*.layer_norm1.*"),
    (
        tuple(f"blocks.*.attention.{part}.*" for part in ("query", "key", "value")),
        "encoder.layers.*.self_attn.qkv.*",
    ),
    ("blocks.*.attention.out.*", "encoder.layers.*.self_attn.projection.*"),
    ("blocks.*.feed_norm.*", "encoder.layers.*.layer_norm2.*"),
    ("blocks.*.feed.up.*", "encoder.layers.*.mlp.fc1.*"),
    ("blocks.*.feed.down.*", "encoder.layers.*.mlp.fc2.*"),
    ("post_norm.*", "post_layernorm.*"),
]
_RESIZE = "resize it, or pass interpolate_pos_encoding=True"
LEADING = {
    "query_tokens": 1,
    "vision_model.embeddings.class_embedding": 2,
    "vision_model.embeddings.position_embedding": 1,
}


def tower_rules() -> list[Rule]:
    """The names of the vision tower inside a model."""
    return prefixed(_TOWER, ours="vision.", theirs="vision_model.")


def layer_rules(ours: str, theirs: str, *, inside: str = "attention") -> list[Rule]:
    """The names of one layer (or of all: `*`), whose attentions keep their maps `inside` a part of this name."""
    rules: list[Rule] = []
    for mine, norm, yours in (("attention", "attention_norm", "attention"), ("look", "look_norm", "crossattention")):
        rules += [(f"{mine}.{part}.*", f"{yours}.{inside}.{part}.*") for part in ("query", "key", "value")]
        rules += [(f"{mine}.out.*", f"{yours}.output.dense.*"), (f"{norm}.*", f"{yours}.output.LayerNorm.*")]
    for mine, end in (("query_feed", "_query"), ("text_feed", "")):
        rules += [
            (f"{mine}.feed.up.*", f"intermediate{end}.dense.*"),
            (f"{mine}.feed.down.*", f"output{end}.dense.*"),
            (f"{mine}.norm.*", f"output{end}.LayerNorm.*"),
        ]
    return prefixed(rules, ours=f"{ours}.", theirs=f"{theirs}.")


def word_rules(ours: str, theirs: str) -> list[Rule]:
    """The names of a Q-Former's own words."""
    return [
        (f"{ours}.embedding.weight", f"{theirs}.word_embeddings.weight"),
        (f"{ours}.positions.weight", f"{theirs}.position_embeddings.weight"),
        (None, f"{theirs}.position_ids"),
    ]


def language_rules(text: Any) -> list[Rule]:
    """The names of the language model inside a model, by the reference's text config."""
    head = "language_model.lm_head"
    if opt.matches({"model_type": text.model_type}):
        return opt.language_rules("language_model.model.decoder.", head)
    return decoder.language_rules(theirs_prefix="language_model.model.", head=head)


def writing(config: Mapping[str, Any], embedded: Sequence[Rule]) -> Renaming:
    """Between the weight names of a model that writes and ours, given those of what its Q-Former's layers read."""
    return Renaming(
        [
            ("connector.queries", "query_tokens"),
            *embedded,
            *layer_rules("connector.stack.layers.*", "qformer.encoder.layer.*"),
            ("connector.map.*", "language_projection.*"),
            *tower_rules(),
            *language_rules(decoder.reference_config(config).text_config),
        ],
        leading=LEADING,
    )


def parts(config: Any, *, hears: bool) -> dict[str, Any]:
    """The rooms' components for a reference's config; the Q-Former of one that `hears` has words of its own.

    Raises InputError for a language model that is none of ours, and for a tower without biases.
    """
    vision, qformer, text = config.vision_config, config.qformer_config, config.text_config
    settings = text.to_dict()
    if text.model_type not in (*decoder.KINDS, *opt.KINDS):
        known = (*opt.KINDS, *decoder.KINDS)
        raise InputError(f"a language model of kind {text.model_type!r}; {instead(text.model_type, known)}")
    language = opt.language_settings(settings) if text.model_type == "opt" else decoder.language_settings(settings)
    words = {"vocabulary": qformer.vocab_size, "context": qformer.max_position_embeddings} if hears else {}
    return {
        "vision": tower_settings(vision),
        "connector": {"name": "qformer", "queries": config.num_query_tokens, **stack_settings(qformer), **words},
        "fusion": "prefix",
        "language": language,
        "head": {"name": "language_model", "tied": bool(text.tie_word_embeddings)},
    }


def tower_settings(vision: Any) -> dict[str, Any]:
    """Settings of the component `vit` for a reference's vision config."""
    if not vision.qkv_bias:
        raise InputError("vision_config.qkv_bias false is not supported; give a checkpoint whose tower has biases")
    return {
        "name": "vit",
        "width": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "inner": vision.intermediate_size,
        "patch": vision.patch_size,
        "image_size": vision.image_size,
        "pre_norm": False,
        "patch_bias": True,
        "activation": vision.hidden_act,
        "eps": vision.layer_norm_eps,
        "layers": [-1],
        "last_norm": True,
        "select": "full",
    }


def stack_settings(qformer: Any) -> dict[str, Any]:
    """Settings of a Q-Former's stack for a reference's config."""
    return {
        "width": qformer.hidden_size,
        "depth": qformer.num_hidden_layers,
        "heads": qformer.num_attention_heads,
        "inner": qformer.intermediate_size,
        "frequency": qformer.cross_attention_frequency,
        "activation": qformer.hidden_act,
        "eps": qformer.layer_norm_eps,
    }


def check_queries(state: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> None:
    """Raise InputError where the weights hold another number of queries than the config says."""
    held, said = state.get("query_tokens"), config.get("num_query_tokens", 32)
    if held is not None and held.ndim == 3 and held.shape[1] != said:
        raise InputError(
            f"{where}: config.json says {said} num_query_tokens but the weights hold {held.shape[1]}; "
            "give the checkpoint that belongs to the config"
        )


def check_size(pixel_values: Tensor | None, *, interpolate: bool = False, side: int, way: str = _RESIZE) -> None:
    """Raise InputError for pixels of another size than the tower's unless positions are to be interpolated."""
    if pixel_values is not None and not interpolate and (size := tuple(pixel_values.shape[-2:])) != (side, side):
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels (height x width) for a tower of {side} x {side}; {way}"
        )


@dataclass(frozen=True, kw_only=True)
class QformerOutput:
    """What the reference's Q-Former returns, by its names."""

    last_hidden_state: Float[Tensor, "I N D"]
    pooler_output: Float[Tensor, "I D"]
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class BlipOutput(Output):
    """The reference's fields beside ours; what it says of vision and queries is None for text alone."""

    vision_outputs: TowerOutput | None = None
    qformer_outputs: QformerOutput | None = None

    @property
    def language_model_outputs(self) -> Output:
        """What the language model said: the same object under the reference's name."""
        return self


class Blip(HuggingFaceCausal):
    """A model with a Q-Former, called as its reference is: it tells what tower and queries said, too."""

    def say(self, batch: Batch, *, keep_hidden: bool) -> Output:
        """Logits, and the states that led to them."""
        model, connector = self.model, self.model.connector
        seen = model.look(batch)
        if seen is None:
            return model(batch, keep_hidden=keep_hidden)
        assert isinstance(connector, Qformer) and isinstance(model.vision, Vit)
        states = connector.look(seen, connector.query(batch))
        told = model(replace(batch, seen=connector.mapped(seen, states)), keep_hidden=keep_hidden)
        named = {field: getattr(told, field) for field in told.__dataclass_fields__}
        return BlipOutput(
            **named,
            vision_outputs=tower_output(seen, model.vision),
            qformer_outputs=QformerOutput(last_hidden_state=states, pooler_output=states[:, 0]),
        )

    def generate(self, input_ids: Int[Tensor, "B L"] | None = None, **given: Any) -> Int[Tensor, "B M"]:
        """New tokens alone; without a text an image is told of from the beginning, as the reference does."""
        pixels = given.get("pixel_values")
        if input_ids is None and isinstance(pixels, Tensor):
            assert isinstance(self.model.connector, Qformer)
            begin = (self.config.get("text_config") or {}).get("bos_token_id", 2)
            row = [self.config["image_token_index"]] * len(self.model.connector.queries) + [begin]
            input_ids = torch.tensor([row] * len(pixels), device=pixels.device)
        return super().generate(input_ids, **given)


def tower_output(seen: VisualTokens, vision: Vit) -> TowerOutput:
    """What the tower said, as the reference tells it."""
    last = seen.features.unflatten(0, (len(seen.layout.counts), -1))
    return TowerOutput(last_hidden_state=last, pooler_output=vision.post_norm(last[:, 0]))
