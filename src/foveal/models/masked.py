"""Where the rooms meet: a model that reads words and sight in both directions, under one or several heads."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, LanguageModel, VisionEncoder
from foveal.core.labels import by_question
from foveal.core.lookup import Spec, build, kind
from foveal.core.types import Batch, Output, Stream
from foveal.decode.choose import worded
from foveal.layers.mosaic import Joined
from foveal.models.config import ModelConfig
from foveal.models.making import check_reading, language_for, sight, spender
from foveal.models.parts import Sight, flow

NEEDS = ("language", "fusion")


class Masked(Sight):
    """Vision encoder, connector, fusion, language encoder and heads, in that order."""

    def __init__(
        self,
        *,
        config: ModelConfig,
        language: LanguageModel,
        fusion: Fusion,
        heads: dict[str, nn.Module],
        vision: VisionEncoder | None = None,
        connector: Connector | None = None,
        allocator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector = vision, connector
        if allocator is not None:
            self.allocator = allocator  # type: ignore[assignment]
        self.joined = Joined(width=getattr(fusion, "apart", language.width), settings=config.mosaic)
        self.language, self.fusion, self.heads = language, fusion, nn.ModuleDict(heads)

    def forward(
        self, batch: Batch, *, at: Mapping[str, Tensor | None] | None = None, keep_hidden: bool = False
    ) -> Output:
        """What every head says, by its name; `logits` are those of the first.

        `at` names the heads that are wanted, and the places `[B L]` where (None: all of them): `[N ...]` row after
        row. `keep_hidden` also returns the input of every layer and the final state. Raises InputError for a head
        that is not there.
        """
        wanted = dict.fromkeys(self.heads) if at is None else at
        for name in wanted:
            if name not in self.heads:
                raise InputError(
                    f"no head {name!r} but {', '.join(self.heads)}; name it, or give the model one so named"
                )
        only = None if keep_hidden else self._only(wanted, batch)
        visual = self.see(batch)
        stream = self.fusion.at_input(self.language.open(self.worded(batch, visual)), visual)
        stream, states = flow(stream, language=self.language, fusion=self.fusion, keep_hidden=keep_hidden, only=only)
        hidden = self.language.norm(stream.hidden)
        begins, told = batch.begins, {}
        if only is not None:  # the last layer spoke at these places alone
            begins = (only == begins[:, None]).int().argmax(1)
        for name, where in wanted.items():
            here = where if where is None or only is None else where.gather(1, only)
            told[name] = self._told(name, hidden, here, stream, begins)
        return Output(
            logits=next(iter(told.values())),
            heads=told,
            hidden_states=(*states, hidden) if keep_hidden else None,
            visual=visual,
        )

    def _told(self, name: str, hidden: Tensor, where: Tensor | None, stream: Stream, begins: Tensor) -> Tensor:
        """What a head says of the states that it reads: of the words, of a stream of sight apart, or of both.

        One that reads a row's first token is given that alone, for in a row padded on its left another stands before.
        """
        head, fusion = self.heads[name], self.fusion
        reads = getattr(head, "reads", "words") if hasattr(fusion, "apart") else "words"
        if where is None and getattr(head, "first", False):
            hidden = hidden.take_along_dim(begins[:, None, None], 1)
        if reads == "both":
            return head(hidden, *fusion.first(stream))  # type: ignore[attr-defined]
        if reads == "sight":
            hidden = fusion.states(stream)  # type: ignore[attr-defined]
            where = None if where is None else fusion.at(where, stream)  # type: ignore[attr-defined]
        return head(hidden if where is None else hidden[where])

    def _only(self, wanted: Mapping[str, Tensor | None], batch: Batch) -> Int[Tensor, "B Q"] | None:
        """The places of each row that some head reads, where it begins among them; None: the last layer says all."""
        if torch.compiler.is_compiling() or not wanted or not getattr(self.fusion, "early", False):
            return None
        if not all(hasattr(layer, "only") for layer in self.language.layers):
            return None
        places = torch.zeros_like(batch.valid).scatter(1, batch.begins[:, None], True)
        for name, where in wanted.items():
            if where is None and not getattr(self.heads[name], "first", False):
                return None
            places = places if where is None else places | where
        alone = all(where is None for where in wanted.values())
        most = 1 if alone else int(places.sum(1).max())
        return places.int().argsort(dim=1, descending=True, stable=True)[:, :most]

    def choose(self, batch: Batch) -> Int[Tensor, "Q M"]:
        """The class that the head `answer` likes best, or of choices the words of the one that `choice` likes best.

        Raises InputError where there is no such head.
        """
        if batch.choices:
            return worded(self.pick(batch), batch)
        return self._liked(batch, "answer").argmax(-1, keepdim=True)

    def pick(self, batch: Batch) -> Int[Tensor, " Q"]:
        """The place of the choice of each question that the head `choice` likes best; takes the errors of `choose`."""
        return by_question(self._liked(batch, "choice"), batch).argmax(1)

    def _liked(self, batch: Batch, head: str) -> Float[Tensor, "B K"]:
        if head not in self.heads:
            heads = ", ".join(self.heads)
            raise InputError(f"this model has the heads {heads} and none for {head}s; train one as {head!r}")
        return self(batch, at={head: None}).heads[head]


def assemble(config: ModelConfig) -> Masked:
    """A model with fresh weights; widths meet here. Raises InputError where parts do not fit."""
    if not config.heads:
        raise InputError("a masked model has no heads; name at least one under 'heads'")
    language: LanguageModel = language_for(config, "open")
    fusion = build("fusion", config.part("fusion"), width=language.width, depth=language.depth)
    if getattr(fusion, "thins", False):
        raise InputError(
            f"fusion {config.part('fusion').name!r} lets visual tokens leave on the way, and a masked model's heads "
            "read them all; take 'causal'"
        )
    check_reading(config, fusion=fusion, language=language)
    vision, connector = sight(config, width=language.width, fusion=fusion)
    seen = vision.width if vision is not None else config.features or language.width
    heads = {name: _head(name, filled(head, seen), language, fusion) for name, head in config.heads.items()}
    parts = {"vision": vision, "connector": connector, "fusion": fusion, "language": language}
    return Masked(config=config, heads=heads, **parts, allocator=spender(config, **parts))  # type: ignore[arg-type]


def _head(name: str, head: Spec, language: LanguageModel, fusion: Fusion) -> nn.Module:
    """A head of the width of what it reads. Raises InputError for one of two streams where there is one."""
    reads = getattr(head.settings, "reads", getattr(kind("heads", head.name), "reads", "words"))
    apart = getattr(fusion, "apart", None)
    if reads == "both" and apart is None:
        raise InputError(f"head {name!r} reads a stream of sight and this fusion has none; take 'co_attention'")
    width = apart if reads == "sight" and apart else language.width
    more = {"sight": apart} if reads == "both" else {}
    table = language.embedding.weight  # type: ignore[attr-defined]
    return build("heads", head, width=width, vocabulary=language.vocabulary, table=table, **more)


def filled(head: Spec, width: int) -> Spec:
    """A head whose number of labels is left to the assembly gets one for each of the `width` features of a region."""
    open_ended = getattr(head.settings, "labels", width) is None
    return replace(head, settings=replace(head.settings, labels=width)) if open_ended else head
