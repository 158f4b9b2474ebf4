"""Where the rooms meet: a model that writes the next token, with sight fused in wherever its fusion says."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, LanguageModel, VisionEncoder
from foveal.core.labels import next_labels
from foveal.core.lookup import build
from foveal.core.types import IGNORE, Batch, Cache, Grid, Layout, Output, VisualTokens
from foveal.models.config import ModelConfig

Keep = Literal["all", "last", "labelled"]  # where logits are wanted


class Causal(nn.Module):
    """Vision encoder, connector, fusion, language model and head, in that order."""

    def __init__(
        self,
        *,
        config: ModelConfig,
        language: LanguageModel,
        fusion: Fusion,
        head: nn.Module,
        vision: VisionEncoder | None = None,
        connector: Connector | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector = vision, connector
        self.language, self.fusion, self.head = language, fusion, head

    def forward(
        self,
        batch: Batch,
        *,
        cache: Cache | None = None,
        keep: Keep = "all",
        keep_hidden: bool = False,
    ) -> Output:
        """Logits `[B L V]`, of the `last` token alone `[B 1 V]`, or where a label is predicted `[N V]`.

        `keep_hidden` also returns the input of every layer and the final normed state.
        """
        visual = self.see(batch)
        stream = self.fusion.at_input(self.language.open(batch, cache), visual)
        states = []
        for i, layer in enumerate(self.language.layers):
            stream = self.fusion.at_layer(i, stream)
            states += [stream.hidden] if keep_hidden else []
            stream = layer(stream)
        stream = self.fusion.at_layer(self.language.depth, stream)
        hidden = self.language.norm(_kept(stream.hidden, batch, keep))
        return Output(
            logits=self.head(hidden),
            hidden_states=(*states, hidden) if keep_hidden else None,
            visual=visual,
        )

    def see(self, batch: Batch) -> VisualTokens | None:
        """The batch's visual tokens in language width; precomputed encoder features skip the encoder."""
        if batch.visual is None:
            return None
        if self.vision is None or self.connector is None:
            raise InputError("the batch holds images but the model has no vision encoder; load one that has")
        encoded = batch.visual if isinstance(batch.visual, VisualTokens) else self.vision(batch.visual)
        return self.connector(encoded)

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """The visual tokens that images of these sizes (height, width) will bring."""
        if self.vision is None or self.connector is None:
            raise InputError(f"{len(sizes)} images for a model without a vision encoder; ask in text alone")
        return self.connector.plan(self.vision.plan(sizes))


def _kept(hidden: Float[Tensor, "B L D"], batch: Batch, keep: Keep) -> Float[Tensor, "*batch D"]:
    if keep == "last":
        return hidden[:, -1:]
    if keep == "labelled":
        return hidden[:, :-1][next_labels(batch) != IGNORE]
    return hidden


def assemble(config: ModelConfig) -> Causal:
    """A model with fresh weights; widths meet here. Raises InputError where parts do not fit."""
    language = build("language", config.language)
    fusion = build("fusion", config.fusion, width=language.width, depth=language.depth)
    if not fusion.causal:
        raise InputError(f"fusion {config.fusion.name!r} lets text see later text, and a causal model must not")
    head = build(
        "heads", config.head, width=language.width, vocabulary=language.vocabulary, table=language.embedding.weight
    )
    vision = connector = None
    if config.vision is not None and config.connector is not None:
        vision = build("vision", config.vision)
        connector = build("connectors", config.connector, width_in=vision.width, width_out=language.width)
    return Causal(config=config, language=language, fusion=fusion, head=head, vision=vision, connector=connector)


def empty(config: ModelConfig) -> Causal:
    """A model whose weights take no memory yet, for loading a checkpoint into."""
    with torch.device("meta"), _Undrawn():
        return assemble(config)


class _Undrawn(TorchFunctionMode):
    """Draws no weights: for those that have no memory, torch would first load its compiler."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init" or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
