"""A Q-Former alone as Hugging Face keeps it (2301.12597), called as its reference is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.layers.masks import attention_mask as sees
from foveal.layers.qformer import Qformer
from foveal.weights.arguments import unneeded
from foveal.weights.decoder import reference_config
from foveal.weights.files import read_checkpoint, write_checkpoint, write_json
from foveal.weights.names import Renaming, load_strict
from foveal.weights.qformer import QformerOutput, layer_rules, stack_settings

KINDS = ("blip_2_qformer",)

_NAMES = Renaming([("stack.norm.*", "layernorm.*"), *layer_rules("stack.layers.*", "encoder.layer.*")])


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Q-Former alone."""
    return config.get("model_type") in KINDS


class QformerModel(nn.Module):
    """Blip2QFormerModel: embeddings of queries, and of text behind them, over the states of an image."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, read = dict(config), reference_config(config)
        self.stack = Qformer(
            **stack_settings(read), memory_width=read.encoder_hidden_size, text=read.use_qformer_text_input
        )

    def forward(
        self,
        query_embeds: Float[Tensor, "B N D"],
        query_length: int | None = None,
        attention_mask: Int[Tensor, "B N"] | None = None,
        encoder_hidden_states: Float[Tensor, "B M E"] | None = None,
        encoder_attention_mask: Int[Tensor, "B M"] | None = None,
        output_hidden_states: bool | None = None,
        **given: Any,
    ) -> QformerOutput:
        """The last state, that of the first place, and on demand all from the embeddings on.

        All embeddings are queries unless `query_length` says how many of the first. Raises InputError for masks of
        another length, for queries without an image, and for an argument that would change the answer.
        """
        unneeded(given, self.forward)
        count = query_embeds.shape[1] if query_length is None else query_length
        if count and encoder_hidden_states is None:
            raise InputError(f"{count} queries without an image to look at; give encoder_hidden_states")
        queries, text = query_embeds[:, :count], query_embeds[:, count:]
        states = list(
            self.stack.states(
                queries if count else None,
                text=text if text.shape[1] else None,
                mask=_mask(attention_mask),
                memory=encoder_hidden_states if count else None,
                memory_mask=None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None],
            )
        )
        wanted = self.config.get("output_hidden_states") if output_hidden_states is None else output_hidden_states
        return QformerOutput(
            last_hidden_state=states[-1],
            pooler_output=states[-1][:, 0],
            hidden_states=tuple(states) if wanted else None,
        )

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write a checkpoint that `transformers` loads; raises InputError where the disk refuses."""
        write_checkpoint(Path(directory), _NAMES.to_theirs(self.state_dict()))
        write_json(Path(directory) / "config.json", self.config)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The same, as a directory that `foveal.load` reads back: it stays the reference's."""
        self.save_pretrained(path)
        return Path(path)


def _mask(attention_mask: Int[Tensor, "B N"] | None) -> Tensor | None:
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return sees(attention_mask.bool(), queries=attention_mask.shape[1], order=torch.zeros_like(attention_mask))


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> QformerModel:
    """The Q-Former of a checkpoint directory; raises InputError for a missing, unexpected or mis-shaped weight."""
    with torch.device("meta"):
        model = QformerModel(config)
    load_strict(model, read_checkpoint(directory), str(directory), renaming=_NAMES, dtype=dtype, device=device)
    return model.eval()
