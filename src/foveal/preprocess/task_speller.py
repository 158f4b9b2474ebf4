"""One model, many tasks: pictures with what is known of them to sequences of any task, and its tokens back.

What an example can teach decides which task it does: all boxes (detect), the outline or the keypoints of one of them
(mask, keypoints), its caption, or the one box that its question is about (find).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError, unknown
from foveal.core.example import Box, Example
from foveal.core.types import Batch, Patches, Pixels, VisualTokens
from foveal.preprocess.detection import Detection, Speller, rows_of, things
from foveal.preprocess.noise import Lesson, lesson
from foveal.preprocess.outlines import clockwise, simplified
from foveal.preprocess.sequence import Faults, Objects, encode
from foveal.preprocess.tasks import (
    TASKS,
    Task,
    decode_mask,
    decode_points,
    encode_mask,
    encode_points,
)
from foveal.preprocess.transform import ImageTransform

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKED: tuple[Task, ...] = ("mask", "keypoints")  # told of one object


class TaskSpeller(Speller):
    """A speller of all tasks that its settings name."""

    def __init__(self, config: Detection, transform: ImageTransform, tokenizer: "PreTrainedTokenizerBase") -> None:
        super().__init__(config, transform)
        assert config.tasks is not None
        self.settings, self.tokenizer = config.tasks, tokenizer
        self.tasks, self.task_codec = config.tasks.names, config.task_codec(len(tokenizer))

    @property
    def vocabulary(self) -> int:
        """The fewest words of a model that reads and writes so."""
        return self.task_codec.vocabulary

    def check(self, example: Example) -> Faults:
        """What is wrong with the boxes of an example; raises InputError for other keypoints than are learned, too."""
        for box in things(example) if "keypoints" in self.tasks else ():
            if len(box.keypoints) not in (0, len(self.settings.points)):
                raise InputError(
                    f"example {example.id!r}: box {box.label!r} has {len(box.keypoints)} keypoints, and this model "
                    f"learns {len(self.settings.points)}; give all objects the same ones"
                )
        return super().check(example)

    def check_words(self, example: Example) -> None:
        """Raise InputError for a caption or a question that is too long."""
        if "caption" in self.tasks and _caption(example):
            self._words(example.answer, example.id)
        if "find" in self.tasks and self.about(example) is not None:
            self._words(asked(example), example.id)

    def possible(self, example: Example) -> list[Task]:
        """The tasks that an example may teach, if the transformed picture shows what they are about."""
        boxes = things(example)
        can: dict[Task, bool] = {
            "detect": True,
            "mask": any(box.segmentation for box in boxes),
            "keypoints": any(box.keypoints for box in boxes),
            "caption": _caption(example),
            "find": self.about(example) is not None,
        }
        return [task for task in self.tasks if can[task]]

    def about(self, example: Example) -> Box | None:
        """The one box that an example's question is about: as `meta.evidence` says, or the only one.

        None where there is none such, or it is a rendered word, or the question is of a kind that is not asked.
        """
        kind, wanted = example.meta.get("kind"), self.settings.asked
        if kind in ("caption", "detection") or (wanted and kind not in wanted) or not asked(example):
            return None
        places = example.meta.get("evidence", range(len(example.boxes)))
        if len(places) != 1 or places[0] in (example.meta.get("words") or ()) or places[0] >= len(example.boxes):
            return None
        box = example.boxes[places[0]]
        return box if box.image == 0 else None

    def training(
        self, examples: Sequence[Example], visual: Pixels | Patches | VisualTokens | None, chance: np.random.Generator
    ) -> Batch:
        """Sequences to learn from, each of a task drawn from those that its example can teach.

        `targets` hold also which `task` of TASKS each row is. Raises InputError for an example that can teach none.
        """
        seeds = chance.integers(2**62, size=len(examples)).tolist()
        drawn = [
            self._drawn(example, torch.Generator().manual_seed(seed))
            for example, seed in zip(examples, seeds, strict=True)
        ]
        tasks, lessons = [task for task, _ in drawn], [one for _, one in drawn]
        pad = self.codec.pad
        read, follow = (_even([getattr(one, name) for one in lessons], pad) for name in ("read", "follow"))
        counts = torch.tensor([self.settings.weights[task] for task in tasks])
        weighs = _even([one.weights for one in lessons], 0.0) * counts[:, None]
        number = torch.tensor([TASKS.index(task) for task in tasks])
        return replace(rows_of(read, visual), targets={"follow": follow, "weighs": weighs, "task": number})

    def outlined(self, image: Any, box: Box, tokens: Int[Tensor, " L"]) -> Box:
        """The box with the outline that was written, in pixels of the picture."""
        polygons = decode_mask(self.task_codec, tokens)
        told = (self._back(image, one).flatten().tolist() for one in polygons)
        return replace(box, segmentation=tuple(map(tuple, told)))

    def pointed(self, image: Any, box: Box, tokens: Int[Tensor, " L"], chances: Float[Tensor, " L"]) -> Box:
        """The box with the keypoints that were written, in pixels of the picture.

        As sure as the box is, times the mean chance of the points' tokens (the reference takes the latter alone).
        """
        points, seen = decode_points(self.task_codec, tokens)
        rows = zip(self._back(image, points).tolist(), seen.tolist(), strict=True)
        told = tuple((x, y, 2) if there else (0.0, 0.0, 0) for (x, y), there in rows)
        return replace(box, keypoints=told, score=(box.score or 0.0) * float(chances.mean()))

    def said(self, tokens: Int[Tensor, " L"]) -> str:
        """The words that were written, up to the stop."""
        stops = (tokens == self.task_codec.stop).nonzero()
        ids = (tokens[: int(stops[0])] if len(stops) else tokens) - self.task_codec.text_shift
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()

    def _begun(self, examples: Sequence[Example], visual: Pixels | Patches | VisualTokens | None, task: Task) -> Batch:
        rows = [self._beginning(example, task) for example in examples]
        valid = _even([torch.ones(len(row), dtype=torch.bool) for row in rows], False)
        return rows_of(_even(rows, self.codec.pad), visual, valid)

    def _beginning(self, example: Example, task: Task) -> Int[Tensor, " L"]:
        """What stands before the answer: the task, and the object or the question that it is about."""
        start = torch.tensor([self.task_codec.start(task)])
        if task == "find":
            return torch.cat([start, self._words(asked(example), example.id)])
        return torch.cat([start, self._object(example, example.boxes[0])]) if task in _MARKED else start

    def _object(self, example: Example, box: Box) -> Int[Tensor, " 5"]:
        """A box as detection spells it, even one without area."""
        if box.label not in self._labels:
            raise unknown(f"class in example {example.id!r}:", box.label, self._labels)
        corners = self._there(example.images[0], torch.tensor(box.xyxy).view(2, 2)).view(1, 4)
        return encode(self.codec, Objects(boxes=corners, labels=torch.tensor([self._labels[box.label]])))

    def _there(self, image: Any, points: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
        """Points in pixels of the picture as fractions of the transformed one, moved to its edge from outside."""
        scale, shift = self._placement(image)
        return (points.double() * scale[:2] + shift[:2]).float().clamp(0, 1)

    def _drawn(self, example: Example, generator: torch.Generator) -> tuple[Task, Lesson]:
        """A task by its share, and what the example teaches of it; the next one where that is nothing."""
        tasks = self.possible(example)
        shares = torch.tensor([self.settings.shares.get(task, 1.0) for task in tasks])
        order = torch.multinomial(shares, len(tasks), generator=generator).tolist() if tasks else []
        for place in order:
            made = self._lesson(example, tasks[place], generator)
            if made is not None:
                return tasks[place], made
        kind = example.meta.get("kind", "no kind")
        raise InputError(
            f"example {example.id!r} ({kind}) teaches none of {', '.join(self.tasks)}; leave it out by the stage's "
            "'kinds', or learn to detect too"
        )

    def _lesson(self, example: Example, task: Task, generator: torch.Generator) -> Lesson | None:
        if task == "detect":
            objects, faults = self.objects(example)
            self.faults += faults
            return lesson(self.codec, objects, self.config.augmentation, generator)
        if task == "caption":
            return self._told(example, generator)
        if task == "find":
            box = self.about(example)
            found = box is not None and self._seen(example, box)
            return _taught(self._beginning(example, task), self._object(example, box)) if box and found else None
        boxes = [box for box in things(example) if (box.segmentation if task == "mask" else box.keypoints)]
        for place in torch.randperm(len(boxes), generator=generator).tolist():
            box = boxes[place]
            alone = replace(example, boxes=(box,), meta={})
            marked = self._outline if task == "mask" else self._points
            made = marked(alone, box, generator) if self._seen(example, box) else None
            if made is not None:
                return made
        return None

    def _seen(self, example: Example, box: Box) -> bool:
        """Whether the transformed picture shows something of a box."""
        return len(self.objects(example, [box])[0].boxes) > 0

    def _told(self, example: Example, generator: torch.Generator) -> Lesson:
        words = torch.cat([self._words(example.answer, example.id), torch.tensor([self.task_codec.stop])])
        read, weights = words.clone(), torch.ones(len(words))
        weights[-1] = self.config.augmentation.end_weight
        if self.codec.noise is not None:  # one token hides classes and words alike
            read[torch.rand(len(words), generator=generator) < self.settings.hidden_words] = self.codec.noise
        return _taught(self._beginning(example, "caption"), words, read=read, weights=weights)

    def _outline(self, example: Example, box: Box, generator: torch.Generator) -> Lesson | None:
        scale, shift = self._placement(example.images[0])
        place = (*scale[:2].tolist(), *shift[:2].tolist())
        polygons = _polygons(box.segmentation, place, self.settings.max_points)
        tokens = torch.cat([encode_mask(self.task_codec, polygons), torch.tensor([self.task_codec.stop])])
        return _taught(self._beginning(example, "mask"), tokens) if polygons else None

    def _points(self, example: Example, box: Box, generator: torch.Generator) -> Lesson | None:
        """The keypoints of a box; those beyond the transformed picture are not known."""
        table = torch.tensor(box.keypoints, dtype=torch.float64)
        scale, shift = self._placement(example.images[0])
        places = table[:, :2] * scale[:2] + shift[:2]
        known = (table[:, 2] > 0) & ((places >= 0) & (places <= 1)).all(1)
        tokens = encode_points(self.task_codec, places.float().clamp(0, 1), known)
        weights = torch.where(known, 1.0, self.settings.invisible_weight).repeat_interleave(2)
        hidden = torch.rand(len(tokens), generator=generator) < torch.rand((), generator=generator)
        read = torch.where(hidden, self.task_codec.invisible, tokens)
        return (
            _taught(self._beginning(example, "keypoints"), tokens, read=read, weights=weights) if known.any() else None
        )

    def _words(self, text: str, where: str) -> Int[Tensor, " L"]:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > self.settings.max_words:
            raise InputError(
                f"example {where!r}: a text of {len(ids)} tokens for max_words {self.settings.max_words}; raise it in "
                "processor.detection.tasks, or give a shorter text"
            )
        return torch.tensor(ids, dtype=torch.long) + self.task_codec.text_shift


def speller_of(detection: Detection, image: ImageTransform, tokenizer: "PreTrainedTokenizerBase") -> Speller:
    """What spells objects alone, or all tasks where the settings name some."""
    return Speller(detection, image) if detection.tasks is None else TaskSpeller(detection, image, tokenizer)


def _caption(example: Example) -> bool:
    return example.meta.get("kind") == "caption" and bool(example.answer)


def asked(example: Example) -> str:
    """The words of an example's first user message, without image markers."""
    given = next((message["content"] for message in example.messages if message.get("role") == "user"), "")
    texts = [given] if isinstance(given, str) else [part["text"] for part in given if part["type"] == "text"]
    return " ".join(text.strip() for text in texts).strip()


@lru_cache(maxsize=1 << 16)
def _polygons(
    segmentation: tuple[tuple[float, ...], ...], place: tuple[float, float, float, float], most: int
) -> list[Tensor]:
    """Polygons as fractions of the transformed picture, clockwise from the top, in few points."""
    scale, shift = torch.tensor(place, dtype=torch.float64).view(2, 2)
    placed = [(torch.tensor(one, dtype=torch.float64).view(-1, 2) * scale + shift).float() for one in segmentation]
    return [clockwise(one) for one in simplified([one.clamp(0, 1) for one in placed], most)]


def _taught(
    begun: Int[Tensor, " M"],
    tokens: Int[Tensor, " L"],
    *,
    read: Int[Tensor, " L"] | None = None,
    weights: Float[Tensor, " L"] | None = None,
) -> Lesson:
    """A beginning that counts nothing, then tokens to learn, of which something else may be read."""
    weights = torch.ones(len(tokens)) if weights is None else weights
    return Lesson(
        read=torch.cat([begun, tokens if read is None else read])[:-1],
        follow=torch.cat([begun, tokens])[1:],
        weights=torch.cat([torch.zeros(len(begun) - 1), weights]),
    )


def _even(rows: Sequence[Tensor], fill: float | int) -> Tensor:
    """The rows as one table, the shorter ones filled up."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)
