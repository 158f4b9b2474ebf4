"""Further tasks in the vocabulary of objects: masks, keypoints, captions and asked boxes (Pix2Seq v2, 2206.07669).

The first token of a sequence says which task it is. Masks and keypoints are told of one object, which stands behind the
task as detection spells it; an asked box is such an object too, behind the words of a question. A mask is polygons of
points in the order of the codec's axes, with two separators between them; a keypoint that cannot be seen is spelled by
two tokens for that; words have the tokens of a tokenizer, shifted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError, unknown
from foveal.preprocess.outlines import LEAST, Polygon, area
from foveal.preprocess.sequence import SequenceCodec, dequantise, quantise

Task = Literal["detect", "mask", "keypoints", "caption", "find"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Which tasks a model learns beside each other; the defaults within a task are the reference's.

    `weights` says how much one token of a task counts, and so which tasks there are; `shares` how often a task is drawn
    among those that an example can teach (1 where it is not named). `points` names the keypoints. A mask has at most
    `max_points` points and gaps, a text `max_words` tokens; text begins at token `text_shift` (None: 3000 in the
    official layout, behind the bins where these reach farther). Where a model reads a caption that it learns,
    `hidden_words` of the words are hidden; keypoints that cannot be seen count `invisible_weight`. `asked` are the
    kinds of questions that a box answers (none named: all that are about one box).
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"detect": 1.0})
    shares: Mapping[str, float] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    max_points: int = 128
    max_words: int = 128
    text_shift: int | None = None
    hidden_words: float = 0.5
    invisible_weight: float = 0.1
    asked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.weights, *self.shares):
            if name not in TASKS:
                raise unknown("task", name, TASKS)
        if not self.weights or min(*self.weights.values(), *self.shares.values(), 1.0) <= 0:
            raise InputError("tasks need weights and shares above 0, one weight at least; leave out what is not wanted")
        if self.max_points < LEAST or self.max_words < 1 or not 0 <= self.hidden_words < 1:
            raise InputError(
                f"max_points {self.max_points}, max_words {self.max_words} and hidden_words {self.hidden_words}; give "
                "at least 3 points, 1 word, and a share from 0 to below 1"
            )

    @property
    def names(self) -> tuple[Task, ...]:
        """The tasks that are learned."""
        return tuple(task for task in TASKS if task in self.weights)


@dataclass(frozen=True, kw_only=True)
class TaskCodec:
    """The tokens of further tasks beside those of objects; the defaults are the reference's (google-research/pix2seq).

    Of its free tasks `find` is the first. `words` is how many tokens the tokenizer has. Raises InputError where tokens
    overlap.
    """

    objects: SequenceCodec
    words: int
    mask: int = 11
    keypoints: int = 12
    caption: int = 13
    find: int = 14
    separator: int = 40
    invisible: int = 41
    text_shift: int = 3000

    def __post_init__(self) -> None:
        own = (self.mask, self.keypoints, self.caption, self.find, self.separator, self.invisible)
        taken = [*self.objects.class_tokens, *self.objects.coordinate_tokens, *self.objects.special_tokens, *own]
        if len(set(taken)) < len(taken) or set(taken) & set(self.text_tokens) or min(own) < 0:
            raise InputError(
                f"the tasks' tokens {own} or words from {self.text_shift} to {self.text_tokens.stop - 1} stand where "
                "others do; shift them apart"
            )

    @property
    def text_tokens(self) -> range:
        """The token of every word of the tokenizer."""
        return range(self.text_shift, self.text_shift + self.words)

    @property
    def vocabulary(self) -> int:
        """The fewest words of a model that reads such sequences."""
        own = max(self.mask, self.keypoints, self.caption, self.find, self.separator, self.invisible) + 1
        return max(self.objects.vocabulary, own, self.text_tokens.stop if self.words else 0)

    @property
    def stop(self) -> int:
        """What ends a mask or a text: the codec's end, or its padding where it has none."""
        return self.objects.pad if self.objects.end is None else self.objects.end

    def start(self, task: Task) -> int:
        """The first token of a task's sequences."""
        return self.objects.start if task == "detect" else int(getattr(self, task))


def behind(objects: SequenceCodec, words: int) -> TaskCodec:
    """The tasks' tokens and the words behind all others, for a layout without room between."""
    first = objects.vocabulary
    mask, keypoints, caption, find, separator, invisible = range(first, first + 6)
    return TaskCodec(
        objects=objects,
        words=words,
        mask=mask,
        keypoints=keypoints,
        caption=caption,
        find=find,
        separator=separator,
        invisible=invisible,
        text_shift=invisible + 1,
    )


def encode_points(
    codec: TaskCodec, points: Float[Tensor, "N 2"], seen: Bool[Tensor, " N"] | None = None
) -> Int[Tensor, " L"]:
    """Two tokens a point (x y as fractions of the image, moved to its edge from outside).

    Where `seen` says so they are the token for what cannot be seen, twice.
    """
    objects = codec.objects
    turned = points if objects.axes == "xy" else points.flip(-1)
    tokens = quantise(turned, objects.bins, rounding=objects.rounding) + objects.coordinate_shift
    return (tokens if seen is None else torch.where(seen[:, None], tokens, codec.invisible)).flatten()


def decode_points(codec: TaskCodec, tokens: Int[Tensor, " L"]) -> tuple[Float[Tensor, "N 2"], Bool[Tensor, " N"]]:
    """The points of pairs of tokens, and which of them are places in the image; a last odd token tells nothing."""
    objects = codec.objects
    places = tokens[: len(tokens) // 2 * 2].view(-1, 2) - objects.coordinate_shift
    seen = ((places >= 0) & (places < objects.bins)).all(1)
    points = dequantise(places, objects.bins)
    return (points if objects.axes == "xy" else points.flip(-1)), seen


def encode_mask(codec: TaskCodec, polygons: Sequence[Polygon]) -> Int[Tensor, " L"]:
    """The polygons' points, two separators between one polygon and the next, without the stop."""
    parts: list[Tensor] = []
    for polygon in polygons:
        parts += [torch.full((2,), codec.separator)] if parts else []
        parts.append(encode_points(codec, polygon))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def decode_mask(codec: TaskCodec, tokens: Int[Tensor, " L"]) -> list[Polygon]:
    """The polygons up to the stop; those of fewer than three points or without area, cut off or not, are left out."""
    stops = ((tokens == codec.stop) | (tokens == codec.objects.pad)).nonzero()
    points, seen = decode_points(codec, tokens[: int(stops[0])] if len(stops) else tokens)
    parts: list[list[Tensor]] = [[]]
    for point, there in zip(points, seen.tolist(), strict=True):
        parts[-1].append(point) if there else parts.append([])
    polygons = [torch.stack(part) for part in parts if len(part) >= LEAST]
    return [polygon for polygon in polygons if area(polygon) > 0]


def legal_mask(codec: TaskCodec, vocabulary: int) -> Callable[[Tensor], Tensor]:
    """Points in pairs; after three of a polygon also two separators, or the stop."""
    places, gap, stop = _row(codec, vocabulary), _only(codec.separator, vocabulary), _only(codec.stop, vocabulary)

    def legal(new: Tensor) -> Tensor:
        count = new.shape[1]
        if count % 2:
            return torch.where(new[:, -1:] == codec.separator, gap.to(new.device), places.to(new.device))
        gaps = (new == codec.separator) * torch.arange(1, count + 1, device=new.device)
        since = count - (gaps.max(1).values if count else new.new_zeros(len(new)))
        may = (since >= 2 * LEAST)[:, None]
        return places.to(new.device) | (may & (gap | stop).to(new.device))

    return legal


def legal_points(codec: TaskCodec, vocabulary: int) -> Bool[Tensor, "1 V"]:
    """Places alone: what is not seen is told a place too, for measures count those that are known."""
    return _row(codec, vocabulary)[None]


def legal_words(codec: TaskCodec, vocabulary: int, special: Sequence[int] = ()) -> Bool[Tensor, "1 V"]:
    """Words, those of the tokenizer's `special` tokens left out, and the stop."""
    row = _only(codec.stop, vocabulary)
    row[codec.text_tokens.start : codec.text_tokens.stop] = True
    row[[codec.text_shift + token for token in special]] = False
    return row[None]


def _row(codec: TaskCodec, vocabulary: int) -> Bool[Tensor, " V"]:
    row = torch.zeros(vocabulary, dtype=torch.bool)
    row[codec.objects.coordinate_tokens.start : codec.objects.coordinate_tokens.stop] = True
    return row


def _only(token: int, vocabulary: int) -> Bool[Tensor, " V"]:
    return torch.arange(vocabulary) == token
