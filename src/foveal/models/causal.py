"""Where the rooms meet: a model that writes the next token, with sight fused in wherever its fusion says."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, GenerativeModel, VisionEncoder
from foveal.core.labels import next_labels
from foveal.core.lookup import build
from foveal.core.types import IGNORE, Batch, Cache, Output, Stream, VisualTokens
from foveal.layers.mosaic import Joined
from foveal.layers.thinning import spread
from foveal.models import seats
from foveal.models.config import ModelConfig
from foveal.models.making import check_reading, deeper, language_for, sight, spender
from foveal.models.parts import Sight, flow

NEEDS = ("language", "fusion", "head")
Keep = Literal["all", "last", "labelled"]  # where logits are wanted


class Causal(Sight):
    """Vision encoder, connector, fusion, language model and head, in that order."""

    def __init__(
        self,
        *,
        config: ModelConfig,
        language: GenerativeModel,
        fusion: Fusion,
        head: nn.Module,
        vision: VisionEncoder | None = None,
        connector: Connector | None = None,
        deeper: nn.ModuleList | None = None,
        allocator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector = vision, connector
        if deeper is not None:
            self.deeper = deeper
        if allocator is not None:
            self.allocator = allocator  # type: ignore[assignment]
        self.joined = Joined(width=getattr(fusion, "apart", language.width), settings=config.mosaic)
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
        batch, stream, visual = self.entered(batch, cache)
        return self.spoken(stream, batch, keep=keep, keep_hidden=keep_hidden, visual=visual)

    def entered(self, batch: Batch, cache: Cache | None = None) -> tuple[Batch, Stream, VisualTokens | None]:
        """The batch as its images lay it out, the stream before layer 0, and what is seen."""
        visual = self.see(batch)
        batch = self.worded(self.placed(batch, visual, cache), visual)
        stream = seats.entered(self._spender, self.fusion.at_input(self.language.open(batch, cache), visual), visual)
        return batch, stream, visual

    def passed(self, stream: Stream, layers: range) -> Stream:
        """The stream after these layers, of which the last does not end the model."""
        return flow(stream, **self._parts, begin=layers.start, end=layers.stop)[0]

    def spoken(
        self,
        stream: Stream,
        batch: Batch,
        *,
        keep: Keep = "all",
        keep_hidden: bool = False,
        visual: VisualTokens | None = None,
        begin: int = 0,
    ) -> Output:
        """What is said of a stream before layer `begin` by all that follow."""
        only = None if keep_hidden else self._only(batch, keep, stays=stream.cache is not None)
        stream, states = flow(stream, **self._parts, keep_hidden=keep_hidden, only=only, begin=begin)
        hidden = self.language.norm(_kept(stream, batch, keep, alone=only is not None))
        return Output(
            logits=self.head(hidden),
            hidden_states=(*states, hidden) if keep_hidden else None,
            visual=visual,
            labels=_wanted(batch) if keep == "labelled" else None,
        )

    @property
    def _parts(self) -> Any:
        return {"language": self.language, "fusion": self.fusion, "spender": self._spender}

    def _only(self, batch: Batch, keep: Keep, *, stays: bool) -> Int[Tensor, "B Q"] | None:
        """The places of each row at which the last layer can speak alone: what is kept, and as many in every row."""
        rows, length = batch.input_ids.shape
        if length == 1 or batch.fan is not None or not all(hasattr(layer, "only") for layer in self.language.layers):
            return None
        if keep == "last":
            return torch.full((rows, 1), length - 1, device=batch.input_ids.device)
        if keep == "all" or stays or torch.compiler.is_compiling():  # a cache wants what the last token saw
            return None
        wanted = next_labels(batch) != IGNORE
        most = int(wanted.sum(1).max())
        if not 0 < most <= length // 2:
            return None
        return wanted.int().argsort(dim=1, descending=True, stable=True)[:, :most].contiguous()

    @property
    def picture_words(self) -> Int[Tensor, " K"] | None:
        """The words that pictures are made of and text is not, in the order of their codes; None: there are none."""
        return getattr(self.fusion, "words", None)


def _wanted(batch: Batch) -> Int[Tensor, " N"]:
    labels = next_labels(batch)
    return labels[labels != IGNORE]


def _kept(stream: Stream, batch: Batch, keep: Keep, *, alone: bool) -> Float[Tensor, "*batch D"]:
    """The states that are kept; where the last layer spoke of these alone, they come first in every row."""
    if keep == "last":
        return stream.hidden[:, -1:]
    hidden = stream.hidden if alone else spread(stream, batch.input_ids.shape[1])
    if keep == "all":
        return hidden
    wanted = next_labels(batch) != IGNORE
    if alone:
        return hidden[torch.arange(hidden.shape[1], device=hidden.device) < wanted.sum(1, keepdim=True)]
    return hidden[:, :-1][wanted]


def assemble(config: ModelConfig) -> Causal:
    """A model with fresh weights; widths meet here. Raises InputError where parts do not fit."""
    wanted, fused = config.part("language"), config.part("fusion")
    language = language_for(config, "open", "cache")
    fusion = build("fusion", fused, width=language.width, depth=language.depth)
    if not fusion.causal:
        raise InputError(f"fusion {fused.name!r} lets text see later text, and a causal model must not")
    check_reading(config, fusion=fusion, language=language)
    sizes = {"width": getattr(language, "word_width", language.width), "vocabulary": language.vocabulary}
    head = build("heads", config.part("head"), **sizes, table=language.embedding.weight)
    vision, connector = sight(config, width=language.width, fusion=fusion)
    _check_thinning(fusion, language, wanted.name)
    _check_words(getattr(fusion, "words", None), language.vocabulary)
    further = deeper(config, vision=vision, width=language.width, fusion=fusion)
    parts = {"language": language, "fusion": fusion, "head": head, "vision": vision, "connector": connector}
    spends = spender(config, vision=vision, connector=connector, fusion=fusion, language=language)
    return Causal(config=config, **parts, deeper=further, allocator=spends)


def _check_thinning(fusion: Fusion, language: GenerativeModel, name: str) -> None:
    if getattr(fusion, "hears_later", False) and getattr(language, "rope", name) is None:
        raise InputError(
            f"visual tokens leave on the way, and language {name!r} counts distances along what its cache holds; "
            "give it rope in the place of steepest, or set fusion.schedule to none"
        )


def _check_words(words: Tensor | None, vocabulary: int) -> None:
    if words is not None and not 0 <= int(words.min()) <= int(words.max()) < vocabulary:
        raise InputError(
            f"the fusion's image words go from {int(words.min())} to {int(words.max())} but the language model has "
            f"{vocabulary}; raise model.language.vocabulary, or name other words"
        )
