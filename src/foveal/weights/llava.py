"""LLaVA checkpoints of Hugging Face: CLIP or SigLIP tower, MLP projector, Llama or Qwen decoder (2310.03744)."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.files import section
from foveal.weights.huggingface import text_batch, with_images
from foveal.weights.names import Renaming, Rule
from foveal.weights.vision_towers import CLIP, vision_leading, vision_rules, vision_settings

KINDS = ("llava",)

_PROJECTOR = ("model.multi_modal_projector.", "multi_modal_projector.")
_LANGUAGE = ("model.language_model.", "language_model.model.")
_HEAD = ("lm_head", "language_model.lm_head")


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a LLaVA model."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between a LLaVA checkpoint's weight names, of this or older versions of transformers, and ours."""
    return Renaming(rules(config), leading=vision_leading(_vision(config)))


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """The same as rules, to stand among those of a model that adds to it."""
    projector: list[Rule] = [
        (f"connector.maps.{i}.*", tuple(f"{prefix}linear_{i + 1}.*" for prefix in _PROJECTOR)) for i in range(2)
    ]
    vision = _vision(config)
    tower = vision_rules(str(vision["model_type"]), gated=bool(vision.get("use_swiglu_ffn", False)))
    return [*projector, *tower, *language_rules(theirs_prefix=_LANGUAGE, head=_HEAD)]


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tower's part of a config, of the reference's usual kind where it names none."""
    return {"model_type": CLIP, **section(config, "vision_config")}


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for a LLaVA config.json, with the reference's defaults."""
    layers = config.get("vision_feature_layer", -2)
    text = {"model_type": "llama", **section(config, "text_config")}
    return ModelConfig.parse(
        {
            "vision": vision_settings(
                _vision(config),
                layers=tuple(layers) if isinstance(layers, list | tuple) else (layers,),
                select=config.get("vision_feature_select_strategy", "default"),
            ),
            "connector": {
                "name": "mlp",
                "depth": 2,
                "activation": config.get("projector_hidden_act", "gelu"),
                "bias": config.get("multimodal_projector_bias", True),
            },
            "fusion": "prefix",
            "language": language_settings(text),
            "head": {"name": "language_model", "tied": bool(reference_config(config).tie_word_embeddings)},
        }
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that LLaVA's processor returns."""
    image_token = config.get("image_token_id", config.get("image_token_index", 32000))

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "I C H W"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        return with_images(batch, input_ids == image_token, pixel_values, model=model)

    return to_batch
