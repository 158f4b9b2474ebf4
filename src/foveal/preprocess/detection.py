"""Pictures and boxes to the batches of a model that spells objects, and its tokens back to boxes (2109.10852)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError, unknown
from foveal.core.example import Box, Example
from foveal.core.types import Batch, Patches, Pixels, VisualTokens
from foveal.preprocess.image import image_size
from foveal.preprocess.noise import Augmentation, lesson
from foveal.preprocess.sequence import Faults, Objects, SequenceCodec, class_led, decode, tidy, torch_port
from foveal.preprocess.tasks import Task, TaskCodec, Tasks, behind
from foveal.preprocess.transform import ImageTransform

Spelling = Literal["official", "port", "class_led"]
_LAYOUTS = MappingProxyType({"official": SequenceCodec, "port": torch_port, "class_led": class_led})


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Which objects there are and how they are spelled; `classes` are their names, in the order of their tokens.

    `layout` is a vocabulary and order of tokens: the `official` one, that of the PyTorch `port`, or class first.
    `max_objects` is the most that a sequence holds, in training and when objects are found. With `tasks` the model does
    more than to detect, in one vocabulary.
    """

    classes: tuple[str, ...]
    bins: int = 1000
    max_objects: int = 100
    layout: Spelling = "official"
    augmentation: Augmentation = field(default_factory=Augmentation)
    tasks: Tasks | None = None

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise InputError(f"{len(self.classes)} classes of objects, or some of them twice; name each class once")

    @property
    def codec(self) -> SequenceCodec:
        """The codec of these settings; raises InputError where tokens of classes and places would overlap."""
        return _LAYOUTS[self.layout](classes=len(self.classes), bins=self.bins, max_objects=self.max_objects)

    def task_codec(self, words: int) -> TaskCodec:
        """The same with the tokens of all tasks, and of as many words."""
        codec, shift = self.codec, None if self.tasks is None else self.tasks.text_shift
        if self.layout != "official":
            return behind(codec, words)
        return TaskCodec(objects=codec, words=words, text_shift=shift or max(3000, codec.coordinate_tokens.stop))


def things(example: Example) -> list[Box]:
    """The objects of an example's picture: rendered words, where `meta` names them, are none."""
    words = set(example.meta.get("words") or ())
    return [box for place, box in enumerate(example.boxes) if place not in words and box.image == 0]


class Speller:
    """Objects as a model reads and writes them; `faults` counts what was wrong with boxes so far."""

    tasks: tuple[Task, ...] = ("detect",)

    def __init__(self, config: Detection, transform: ImageTransform) -> None:
        self.config, self.codec, self.transform = config, config.codec, transform
        self.faults = Faults()
        first = self.codec.first_class
        self._labels: Mapping[str, int] = {name: first + place for place, name in enumerate(config.classes)}

    @property
    def vocabulary(self) -> int:
        """The fewest words of a model that reads and writes so."""
        return self.codec.vocabulary

    def require(self, task: Task) -> None:
        """Raise InputError for a task that the model never learned."""
        if task not in self.tasks:
            known = ", ".join(self.tasks)
            raise InputError(f"this model does not do {task!r}, which it never learned; it does: {known}")

    def check(self, example: Example) -> Faults:
        """What is wrong with the boxes of an example; takes the errors of `objects`."""
        return self.objects(example)[1]

    def check_words(self, example: Example) -> None:
        """Raise InputError for a text that cannot be read or written; objects have none."""

    def objects(self, example: Example, boxes: Sequence[Box] | None = None) -> tuple[Objects, Faults]:
        """What the transformed picture shows of an example's objects (or of these), and what was wrong with the others.

        Raises InputError for a class that is none of the config's, a coordinate that is no number, and an example
        with another number of pictures than one.
        """
        self._check(example)
        boxes = things(example) if boxes is None else boxes
        for box in boxes:
            if box.label not in self._labels:
                raise unknown(f"class in example {example.id!r}:", box.label, self._labels)
        labels = torch.tensor([self._labels[box.label] for box in boxes], dtype=torch.long)
        corners = torch.tensor([box.xyxy for box in boxes], dtype=torch.float64).view(-1, 4)
        scale, shift = self._placement(example.images[0])
        try:
            return tidy(self.codec, Objects(boxes=(corners * scale + shift).float(), labels=labels))
        except InputError as error:
            raise InputError(f"example {example.id!r}: {error}") from None

    def training(
        self, examples: Sequence[Example], visual: Pixels | Patches | VisualTokens | None, chance: np.random.Generator
    ) -> Batch:
        """Sequences to learn from: `targets` hold what should `follow` each token and how much it `weighs`."""
        lessons = []
        for example in examples:
            objects, faults = self.objects(example)
            self.faults += faults
            generator = torch.Generator().manual_seed(int(chance.integers(2**62)))
            lessons.append(lesson(self.codec, objects, self.config.augmentation, generator))
        targets = {"follow": torch.stack([one.follow for one in lessons])}
        targets["weighs"] = torch.stack([one.weights for one in lessons])
        return replace(rows_of(torch.stack([one.read for one in lessons]), visual), targets=targets)

    def prompt(
        self, examples: Sequence[Example], visual: Pixels | Patches | VisualTokens | None, task: Task = "detect"
    ) -> Batch:
        """Sequences that only begin, one a picture; takes the errors of `require`."""
        self.require(task)
        for example in examples:
            self._check(example)
        return self._begun(examples, visual, task)

    def _begun(self, examples: Sequence[Example], visual: Pixels | Patches | VisualTokens | None, task: Task) -> Batch:
        return rows_of(torch.full((len(examples), 1), self.codec.start), visual)

    def found(self, image: Any, tokens: Int[Tensor, " L"], chances: Float[Tensor, " L"]) -> tuple[Box, ...]:
        """Written tokens as boxes in the pixels of the picture itself, clipped to it, the surest first."""
        objects, _ = decode(self.codec, tokens, chances=chances)
        assert objects.scores is not None
        objects = objects.take(objects.scores.argsort(descending=True, stable=True))
        assert objects.scores is not None
        corners = self._back(image, objects.boxes.view(-1, 2, 2)).view(-1, 4)
        rows = zip(corners.tolist(), objects.labels.tolist(), objects.scores.tolist(), strict=True)
        names, first = self.config.classes, self.codec.first_class
        return tuple(Box(label=names[label - first], xyxy=tuple(xyxy), score=score) for xyxy, label, score in rows)

    def _back(self, image: Any, points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
        """Points of the transformed picture in pixels of the picture itself, moved to its edge from outside."""
        scale, shift = self._placement(image)
        height, width = image_size(image)
        places = (points.double() - shift[:2]) / scale[:2]
        return places.clamp(min=0).minimum(places.new_tensor([width, height]))

    def _placement(self, image: Any) -> tuple[Tensor, Tensor]:
        """Fractions of the transformed picture are pixels of the picture times the one plus the other."""
        height, width = self.transform.grid
        place = self.transform.place(image_size(image))
        scale = torch.tensor([place.scale_x / width, place.scale_y / height], dtype=torch.float64).repeat(2)
        return scale, torch.tensor([place.left / width, place.top / height], dtype=torch.float64).repeat(2)

    def _check(self, example: Example) -> None:
        if len(example.images) != 1:
            raise InputError(f"example {example.id!r} has {len(example.images)} images; objects are found in one")


def rows_of(
    ids: Int[Tensor, "B L"], visual: Pixels | Patches | VisualTokens | None, valid: Tensor | None = None
) -> Batch:
    """A row for each picture, of tokens alone."""
    whole = torch.ones_like(ids, dtype=torch.bool)
    return Batch(
        input_ids=ids,
        valid=whole if valid is None else valid,
        prompt=torch.zeros_like(whole),
        image_slot=torch.full_like(ids, -1),
        visual=visual,
        owner=torch.arange(len(ids)),
        full=valid is None or bool(valid.all()),
    )
