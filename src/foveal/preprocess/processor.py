"""Pictures and conversations to batches, and tokens back to words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from foveal.core.config import dump, later, parse
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import IGNORE, Batch, Layout, Patches, Pixels, VisualTokens
from foveal.preprocess import chat, choices, quarters
from foveal.preprocess.cells import shown_cells
from foveal.preprocess.coarser import coarser, fitting
from foveal.preprocess.collate import Group, Padding, Places, collate, lengths, packed, same_images
from foveal.preprocess.detection import Detection
from foveal.preprocess.hearing import heard, taught
from foveal.preprocess.masking import Masking, Words, exchanged, mask_regions, mask_words
from foveal.preprocess.region_files import Reader, RegionFiles
from foveal.preprocess.regions import Find, Plan, Proposals, Sights, Source, sights
from foveal.preprocess.spelling import Spelling, spelled
from foveal.preprocess.task_speller import speller_of
from foveal.preprocess.tasks import Task
from foveal.preprocess.tokens import Coder, Encoded
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, film_word, pixels, refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

See = Callable[[Sequence[Any]], Pixels | Patches | VisualTokens]
Asked = Example | tuple[Any, str]
Learned = Example | Encoded


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How pictures and conversations become batches; `video` says which frames of a video are looked at.

    `template` is one of plain, qa, vicuna, chatml, `tokenizer` (the tokenizer's own), or a template's fields.
    `context` is the most tokens of a conversation; with `truncate`, longer training examples lose text from the end.
    `around` are the words that begin and end an image; where the model `draws`, it learns to write images in answers.
    `mutual` lets the tokens of an image see each other, not only the earlier ones (PaliGemma, 2407.07726). `positions`
    count tokens in a line, or those of images by row and column of their `grid` and by the time of a video (Qwen2-VL,
    2409.12191), whose `frames` Qwen3-VL takes each for an image.
    `answers` is the vocabulary of a model that chooses its answers: batches hold questions alone, and the tokens of
    an answer are its place in the vocabulary. With `choices`, a question has as many of its own, each of which is read
    in a row with it; one asked by hand names any number of them after it, parted by |. `background` is the word that
    stands for cells without a box; without it they carry no label. `regions` says what is a visual token: a cell of the
    encoder's `grid`, what lies in the data's true boxes (`oracle`: a bound, no system, for it leaks how many things
    there are and where), in fixed `windows`, or in the boxes that the run of the `proposals` finds. With `region_files`
    images are files of features that a detector has made. With `masking`, training batches hold whole conversations
    with parts of them hidden. With `detection` nothing is said in words: batches hold the objects of one picture a row.
    With a `spelling` words stand around the tiles of images that are cut. `ends` end an answer, as the template's do.
    """

    image: ImageTransform = field(default_factory=ImageTransform)
    template: str | chat.Template = "plain"
    order: chat.Order = "as_given"
    context: int = 2048
    truncate: bool = False
    marker: str = "<image>"
    around: tuple[str, str] = ("", "")
    draws: bool = False
    mutual: bool = False
    positions: Places = later("line")
    background: str | None = None
    answers: tuple[str, ...] | None = None
    choices: int = later(0)
    masking: Masking | None = None
    regions: Source = "grid"
    proposals: str | Proposals | None = None
    region_files: RegionFiles | None = None
    detection: Detection | None = None
    video: Frames | None = later(None)
    spelling: Spelling | None = later(None)
    ends: tuple[int, ...] = later(())


class Processor:
    """A tokenizer, an image transform and a chat template; `truncated` counts the training examples it has cut.

    `find` says what lies in pictures, where regions are proposals.
    """

    def __init__(
        self, *, tokenizer: "PreTrainedTokenizerBase", config: ProcessorConfig | None = None, find: Find | None = None
    ) -> None:
        self.tokenizer, self.config, self.find = tokenizer, config or ProcessorConfig(), find
        self.transform = self.config.image
        way: Any = {"around": self.config.around, "film": film_word(self.config.video)}
        self.render = chat.renderer(self.config.template, tokenizer, **way)
        self.listener: PreTrainedTokenizerBase | None = None  # whose words queries hear a question in
        self.truncated = 0
        self._coder = Coder(tokenizer, self.config.marker, draws=self.config.draws)
        self._labels: dict[str, int] = {}
        self._files = None if self.config.region_files is None else Reader(self.config.region_files)
        if self.config.answers is not None and not self.config.answers:
            raise InputError("an empty answer vocabulary; give the processor at least one answer, or none at all")
        choices.check(self.config.choices, self.config.answers)
        detection = self.config.detection
        self.speller = None if detection is None else speller_of(detection, self.config.image, tokenizer)
        self._classes = {answer: place for place, answer in enumerate(self.config.answers or ())}

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        if self.speller is not None:
            return () if self.speller.codec.end is None else (self.speller.codec.end,)
        if self._classes:
            return ()
        ids, loss = self._coder(chat.exchange(self.render, self.config.marker))
        spoken = (int(i) for i in ids[loss][-1:] if int(i) in self._coder.special)
        ends = {self._coder.eos_id, *spoken, *self.config.ends}
        return tuple(sorted(i for i in ends if i is not None))

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The tokens that begin an image."""
        return tuple(self._coder.bare(self.config.around[0]))

    def pixels(self, images: Sequence[Any]) -> Pixels | Patches:
        """One tile a picture, and one a frame of a video that is looked at."""
        return pixels(images, self.transform, self.config.video)

    def text(self, ids: Sequence[int] | Tensor) -> str:
        """Words of tokens, without special tokens and outer space."""
        if self.config.answers is not None:
            return " ".join(self.config.answers[place] for place in torch.as_tensor(ids).tolist())
        spoken = [token for token in torch.as_tensor(ids).tolist() if token != IGNORE]
        return str(self.tokenizer.decode(spoken, skip_special_tokens=True)).strip()

    def encode(self, example: Example, *, where: str = "") -> Encoded:
        """The conversation's tokens with its answers marked: pure, so keep it instead of doing it again."""
        where, example = where or f"example {example.id!r}", self.viewed(example)
        if self.speller is not None:
            nothing = np.zeros(0, np.int64)
            return Encoded(example=example, ids=nothing, loss=nothing.astype(bool), prompt=0, where=where)
        if self._classes and self.config.masking is None:
            return replace(self._asked(example, 0), example=example)
        if self.config.choices and self.config.masking is None:
            return choices.each(choices.counted(example, self.config.choices, where), where, self._whole)
        return self._whole(example, where)

    def prompt(
        self,
        conversations: Sequence[Asked],
        *,
        plan: Plan,
        visual: See | None = None,
        padding: Padding = "left",
        room: int = 0,
        shared: bool = False,
        task: Task = "detect",
    ) -> Batch:
        """A batch that ends where an answer begins; a last assistant message of a conversation is left out.

        A conversation is an Example or `(images, text)` (one image, several or None). `plan` is the model's: slots
        are laid out before a pixel is read. `visual` is as in `training`. `shared` sees an image once for all rows
        that ask about it (only where no question steers vision), as rows of choices always do. Raises InputError where
        `room` more tokens would pass the context. `task` is what a model that spells objects shall do, about the
        example's first box or text.
        """
        if self.speller is not None:
            shown = [self.encode(_example(one, self.config.marker)) for one in conversations]
            return self.speller.prompt([one.example for one in shown], self._shown(shown, plan, visual), task)
        if self.config.choices:
            each = [self._offered(one, row) for row, one in enumerate(conversations, 1)]
            return self._beside(each, plan, visual, padding)
        asked = [self._asked(one, row) for row, one in enumerate(conversations, 1)]
        batch, _ = self._apart(asked, plan, visual, padding, room=room, shared=shared)
        return replace(batch, labels=None, question=heard(self.listener, asked, batch.owner))

    def training(
        self,
        examples: Sequence[Learned | Sequence[Learned]],
        *,
        plan: Plan,
        visual: See | None = None,
        padding: Padding = "right",
        length: int | None = None,
        cells: bool = False,
        seed: Sequence[int] = (0,),
    ) -> Batch:
        """A batch with labels on the answers.

        A sequence among the examples is a group about the same images: one trunk and a branch each, in one row.
        With `length`, rows of that many tokens hold several conversations. `visual` gives pixels or ready features
        for the images of the batch in order (as the examples hold them); without it they are opened. `cells` adds
        `targets["cells"]`, the token of what stands at each visual token. With an answer vocabulary a group is a row
        for each question, and `targets["answer"]` says which answer is right (IGNORE: none of the vocabulary); with
        choices a row for each of these, as many in turn as `Batch.choices` says, and `targets["choice"]` the right one.
        With `masking` a group is a row for each conversation; what is hidden is drawn from the `seed`: words as
        `labels` say, visual tokens as `targets["regions"]` does; `targets["matching"]` is 1 for a foreign text.
        With `detection` a group is a row for each of its pictures' spellings, and noise is drawn from the `seed`.
        """
        if self.speller is not None:
            rows = [one for entry in examples for one in self._group(entry)]
            seen, chance = self._shown(rows, plan, visual), np.random.default_rng(list(seed))
            return self.speller.training([one.example for one in rows], seen, chance)
        if self.config.masking is not None:
            rows = [one for entry in examples for one in self._group(entry)]
            return self._masked(rows, plan, visual, padding, self.config.masking, np.random.default_rng(list(seed)))
        if self._classes:
            return self._chosen([one for entry in examples for one in self._group(entry)], plan, visual, padding)
        if self.config.choices:
            rows = [one for entry in examples for one in self._group(entry)]
            targets = {"choice": torch.tensor(choices.right(rows))}
            return replace(self._beside(rows, plan, visual, padding), targets=targets)
        groups = [self._group(entry) for entry in examples]
        counts = self._counts(plan, groups)
        limit = min(self.config.context, length or self.config.context)
        groups = [
            [self._fitting(one, c, limit, plan) for one in group] for group, c in zip(groups, counts, strict=True)
        ]
        rows = [[group] for group in groups] if length is None else packed(groups, counts, length)
        ordered = [group for row in rows for group in row]
        shown = self._sights(ordered, plan)
        batch = self._laid(rows, shown, padding, length)
        batch = replace(batch, question=taught(self.listener, ordered, shown.places), regions=shown.regions)
        targets = {"cells": self._cells(ordered, shown.layout)} if cells else {}
        return replace(batch, visual=self._seen(shown, visual), targets=targets)

    def _chosen(self, asked: Sequence[Encoded], plan: Plan, visual: See | None, padding: Padding) -> Batch:
        """Questions in rows that share their images, and the classes of their answers."""
        right = [self._classes.get(one.example.answer, IGNORE) for one in asked]
        batch, _ = self._apart(asked, plan, visual, padding)
        return replace(batch, labels=None, targets={"answer": torch.tensor(right)})

    def _beside(self, asked: Sequence[Encoded], plan: Plan, visual: See | None, padding: Padding) -> Batch:
        """The rows of all choices of the questions, sharing their images; the words of a choice carry the labels."""
        batch, _ = self._apart([row for one in asked for row in one.rows], plan, visual, padding)
        return replace(batch, choices=choices.together(asked))

    def _masked(
        self,
        rows: Sequence[Encoded],
        plan: Plan,
        visual: See | None,
        padding: Padding,
        masking: Masking,
        chance: np.random.Generator,
    ) -> Batch:
        """Whole conversations in rows that share their images, with parts hidden and texts exchanged."""
        rows, classes = exchanged(rows, masking.foreign, chance)
        batch, layout = self._apart(rows, plan, visual, padding)
        targets = {"matching": torch.tensor(classes)} if masking.foreign else {}
        if masking.regions:
            targets["regions"] = mask_regions(layout.total, masking.regions, chance)
        words = partial(Words.of, len(self.tokenizer), self._coder.special, self._coder.mask_id)
        return mask_words(replace(batch, targets=targets), masking.words, words, chance)

    def _shown(self, rows: Sequence[Encoded], plan: Plan, visual: See | None) -> Pixels | Patches | VisualTokens | None:
        """The pictures of the rows, one after the other."""
        shown = self._sights([[one] for one in rows], plan)
        refuse(shown.images, "objects")
        return self._seen(shown, visual)

    def _apart(
        self,
        asked: Sequence[Encoded],
        plan: Plan,
        visual: See | None,
        padding: Padding,
        *,
        room: int = 0,
        shared: bool = True,
    ) -> tuple[Batch, Layout]:
        """A row for each conversation; `shared` sees an image once for all of them."""
        rows = [[[one]] for one in asked]
        shown = self._sights([[one] for one in asked], plan, shared=shared)
        for one, mine in zip(asked, shown.places, strict=True):
            self._check_room(one, [shown.layout.places[i] for i in mine], room, plan)
        batch = self._laid(rows, shown, padding)
        return replace(batch, visual=self._seen(shown, visual), regions=shown.regions), shown.layout

    def _laid(
        self, rows: Sequence[Sequence[Group]], shown: Sights, padding: Padding, length: int | None = None
    ) -> Batch:
        way: Any = {"pad": self._coder.pad_id, "fill": self._coder.fill_id, "length": length, "padding": padding}
        way |= {"mutual": self.config.mutual, "positions": self.config.positions}
        return collate(rows, shown.layout, shown.places, **way)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data; `from_settings` reads it back."""
        return dump(self.config)

    def _label(self, words: str) -> int:
        """The first token of words that begin an answer (a phrase of a word tokenizer is one token)."""
        if words not in self._labels:
            ids, _ = self._coder([chat.Span(text=getattr(self.render, "lead", "") + words, answer=True)])
            self._labels[words] = int(ids[len(self._coder.head)])
        return self._labels[words]

    def _asked(self, one: Asked, row: int) -> Encoded:
        return self._whole(*self._question(one, row), reply=True)

    def _offered(self, one: Asked, row: int) -> Encoded:
        one, where = self._question(one, row)
        known = choices.counted(one, self.config.choices, where) if one.choices else choices.offered(one, where)
        return choices.each(known, where, self._whole)

    def _whole(self, example: Example, where: str, *, reply: bool = False) -> Encoded:
        c = self.config
        turns = chat.turns(example, marker=c.marker, order=c.order, where=where)
        way: Any = {"marker": c.marker, "look": c.image, "frames": c.video, "spelling": c.spelling}
        return spelled(example, self.render(turns, marker=c.marker, reply=reply), self._coder, where, **way)

    def _question(self, one: Asked, row: int) -> tuple[Example, str]:
        where = f"row {row}" if isinstance(one, tuple) else f"example {one.id!r}"
        one = self.viewed(_example(one, self.config.marker))
        messages = one.messages
        while messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        if not messages:
            raise InputError(f"{where} asks nothing; give it a user message")
        return replace(one, messages=messages), where

    def _group(self, entry: Learned | Sequence[Learned]) -> list[Encoded]:
        members = [entry] if isinstance(entry, Example | Encoded) else list(entry)
        group = [one if isinstance(one, Encoded) else self.encode(one) for one in members]
        if not group or not same_images(group):
            names = ", ".join(one.where for one in group) or "none"
            raise InputError(f"a group of conversations must be about the same images; this one holds: {names}")
        return group

    def _sights(self, groups: Sequence[Group], plan: Plan, *, shared: bool = False) -> Sights:
        of: dict[str, Any] = {"source": self.config.regions, "frames": self.config.video, "files": self._files}
        return sights(groups, plan, transform=self.transform, find=self.find, shared=shared, **of)

    def viewed(self, example: Example) -> Example:
        """The example with what this model looks at as its images."""
        read = replace(example, images=example.features) if self._files and example.features else example
        return quarters.quartered(read, self.config.image.tiling, self.config.marker)

    def _counts(self, plan: Plan, groups: Sequence[Group]) -> list[list[int]]:
        shown = self._sights(groups, plan)
        return [[shown.layout.places[i] for i in mine] for mine in shown.places]

    def _check_room(self, one: Encoded, counts: Sequence[int], room: int, plan: Plan) -> None:
        """Raise InputError where a question and its answer pass the context."""
        room = 0 if self._classes or self.config.choices else room  # what is chosen takes no room
        if (total := int(lengths(one, counts).sum())) + room > (context := self.config.context):
            extra = f" and {room} for the answer" if room else ""
            raise InputError(
                f"{one.where} has {total} tokens ({sum(counts)} of them of images){extra}, but the context holds "
                f"{context}; {coarser(self, one.example, plan, context - room)}"
            )

    def _fitting(self, one: Encoded, counts: Sequence[int], limit: int, plan: Plan) -> Encoded:
        fit = fitting(self, one, counts, limit, plan)
        self.truncated += fit is not one
        return fit

    def _seen(self, shown: Sights, visual: See | None) -> Pixels | Patches | VisualTokens | None:
        if not shown.images:
            return None
        seen = (visual or self._files or self.pixels)(shown.images)
        shown.check(seen, self.config.image.tiling)
        return seen

    def _cells(self, groups: Sequence[Group], layout: Layout) -> Tensor:
        background = IGNORE if self.config.background is None else self._label(self.config.background)
        return shown_cells(groups, layout, label=self._label, transform=self.transform, background=background)

    def save(self, directory: str | Path) -> None:
        """The tokenizer's files, and the settings under `processor` in the directory's `config.yaml`."""
        from foveal.preprocess import store

        store.save(self, Path(directory))

    @classmethod
    def load(cls, directory: str | Path) -> "Processor":
        """What `save` wrote; raises InputError for what is missing or wrong."""
        from foveal.preprocess import store

        return store.load(Path(directory))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], directory: str | Path) -> "Processor":
        """A processor of these settings (what `settings` gave) with the tokenizer of a directory."""
        from foveal.preprocess import store

        return store.of_settings(parse(ProcessorConfig, settings, where="processor"), Path(directory))

    @classmethod
    def from_huggingface(cls, directory: str | Path, **known: Any) -> "Processor":
        """The processor of a Hugging Face checkpoint's tokenizer, image settings and chat template, as the store's."""
        from foveal.preprocess import store

        return store.from_huggingface(Path(directory), **known)


def _example(one: Asked, marker: str) -> Example:
    return chat.question(*one, marker=marker) if isinstance(one, tuple) else one
