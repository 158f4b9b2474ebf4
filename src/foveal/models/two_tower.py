"""Where the rooms meet: queries that look at an image beside a text, told apart by who sees whom (2301.12597)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError, unknown
from foveal.core.interfaces import VisionEncoder
from foveal.core.lookup import Spec, build
from foveal.core.types import IGNORE, Batch, Grid, Layout, Output
from foveal.layers.masks import Sees
from foveal.layers.meeting import places_of
from foveal.models.config import ModelConfig
from foveal.models.parts import Sight

NEEDS = ("vision", "language")
ROLES = ("pair", "write", "matching")  # what the heads are called, and so what they read
Kept = tuple[tuple[tuple[Tensor, Tensor], ...], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """An image and a text a row: keys and values of all images, which of them is whose, and words at the left."""

    seen: Kept
    image: Int[Tensor, " B"]
    ids: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"] | None


class TwoTower(Sight):
    """Vision encoder, a Q-Former, and heads for three ways to read it.

    `pair` makes vectors of images and of texts, which do not see each other; `write` scores the next word, which sees
    the image's queries and the words before it; `matching` tells whether a text belongs, while all see all.
    """

    def __init__(
        self, *, config: ModelConfig, vision: VisionEncoder, language: nn.Module, heads: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        self.config, self.connector, self.fusion = config, None, None  # type: ignore[assignment]
        self.vision, self.language, self.heads = vision, language, nn.ModuleDict(heads)  # type: ignore[assignment]

    def forward(
        self, batch: Batch, *, at: Mapping[str, None] | None = None, keep: Literal["all", "labelled"] = "all"
    ) -> Output:
        """What every head says, or those that `at` names; `logits` are those of the first.

        `pair` says `[B N K]`, the vectors of the queries and then of the text, `matching` `[B 2]`, and `write`
        `[B L V]` of each row's words; with `keep` of `labelled` it alone is asked, where a label is predicted,
        `[N V]`. Raises InputError for a head that is not there, and for rows that are no pairs.
        """
        wanted = ("write",) if keep == "labelled" else tuple(self.heads) if at is None else tuple(at)
        for name in wanted:
            if name not in self.heads:
                raise unknown("head", name, self.heads)
        pairs = self.pairs(batch)
        if keep == "labelled":
            return self.write(pairs)
        read = {"pair": self.vectors, "write": self.written, "matching": self.match}
        told = {name: read[name](pairs) for name in wanted}
        return Output(logits=told[wanted[0]], heads=told)

    def pairs(self, batch: Batch) -> Pairs:
        """The batch's images, each read once, and its words. Raises InputError where a row lacks either."""
        shown = batch.valid & (batch.image_slot >= 0)
        words = batch.valid & ~shown
        visual = self.look(batch)
        counts = shown.sum(1)
        if visual is None or not bool((counts == 1).all() & words.any(1).all()):
            texts = int(words.any(1).sum())
            raise InputError(
                f"rows of {int(counts.min())} to {int(counts.max())} images and {texts} of {len(words)} with a text "
                "where pairs are compared; give each row one image and one text"
            )
        ends = torch.tensor(visual.layout.offsets[1:], device=shown.device)
        slot = batch.image_slot.masked_fill(~shown, -1).amax(1)
        at = places_of(words)
        return Pairs(
            seen=self._reader.read(visual),
            image=torch.bucketize(slot, ends, right=True),
            ids=batch.input_ids.gather(1, at),
            valid=words.gather(1, at),
            labels=None if batch.labels is None else batch.labels.gather(1, at).where(words.gather(1, at), IGNORE),
        )

    def vectors(self, pairs: Pairs) -> Float[Tensor, "B N K"]:
        """A vector for each query's view of the image, and last that of the text; neither has seen the other."""
        queries, words = self.states(pairs, sees="own")
        head = self.heads["pair"]
        return torch.cat([head(queries)[..., 0, :], head(words[:, :1])[..., 1, :]], dim=1)

    def written(self, pairs: Pairs) -> Float[Tensor, "B L V"]:
        """What comes after each word, by the image and the words up to it."""
        return self.heads["write"](self.states(pairs, sees="earlier")[1])

    def write(self, pairs: Pairs) -> Output:
        """The same where a label is predicted, `logits[N V]`, and these labels. Raises InputError without labels."""
        if pairs.labels is None:
            raise InputError("the batch has no labels; make it with a processor's training method")
        wanted = pairs.labels[:, 1:]
        _, words = self.states(pairs, sees="earlier")
        told = self.heads["write"](words[:, :-1][wanted != IGNORE])
        return Output(logits=told, heads={"write": told}, labels=wanted[wanted != IGNORE])

    def match(
        self, pairs: Pairs, images: Int[Tensor, " N"] | None = None, texts: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N 2"]:
        """Whether the text of a row belongs to the image of another, row by row (None: to its own)."""
        queries, _ = self.states(pairs, sees="all", alone=True, images=images, texts=texts)
        return self.heads["matching"](queries)

    def plan(self, sizes: list[Grid] | Layout, frames: tuple[int, ...] | None = None) -> Layout:  # type: ignore[override]
        """The visual tokens that the queries will look at; each image or video takes one place in the text."""
        layout = super().plan(sizes, frames)
        return replace(layout, slots=(1,) * len(layout.counts))

    @property
    def _reader(self) -> Any:
        return self.language

    def states(
        self,
        pairs: Pairs,
        *,
        sees: Sees,
        alone: bool = False,
        images: Int[Tensor, " N"] | None = None,
        texts: Int[Tensor, " N"] | None = None,
    ) -> tuple[Float[Tensor, "N Q D"], Float[Tensor, "N L D"]]:
        """The last states of the queries and of the words, of the text of a row beside the image of another.

        None: all texts, each beside its own image. Where the queries are asked `alone` there are none of words.
        """
        image = pairs.image if images is None else pairs.image[images]
        ids, valid = (part if texts is None else part[texts] for part in (pairs.ids, pairs.valid))
        memory, there = pairs.seen
        memory = tuple((key[image], value[image]) for key, value in memory)
        return self._reader((memory, None if there is None else there[image]), ids, valid, sees=sees, alone=alone)


def assemble(config: ModelConfig) -> TwoTower:
    """A model with fresh weights; widths meet here. Raises InputError where parts do not fit."""
    if not config.heads:
        raise InputError(f"a two_tower model has no heads; name at least one of {', '.join(ROLES)} under 'heads'")
    for name in config.heads:
        if name not in ROLES:
            raise unknown("head of a two_tower model:", name, ROLES)
    vision = build("vision", config.part("vision"))
    wanted = config.part("language")
    if wanted.name != "qformer":
        raise InputError(f"language {wanted.name!r} has no queries, and a two_tower model reads them; take 'qformer'")
    language = build("language", seeing(wanted, vision.width))
    sizes = {"width": language.width, "vocabulary": language.vocabulary, "table": language.embedding.weight}
    heads = {name: build("heads", head, **sizes) for name, head in config.heads.items()}
    return TwoTower(config=config, vision=vision, language=language, heads=heads)


def seeing(wanted: Spec, width: int) -> Spec:
    """The Q-Former over visual tokens of this width. Raises InputError where its settings name another."""
    named = wanted.settings.memory_width
    if named not in (None, width):
        raise InputError(f"memory_width {named} over visual tokens of width {width}; leave memory_width out")
    return replace(wanted, settings=replace(wanted.settings, memory_width=width))
