"""Objects as a sequence of tokens, and back: detection spelled as language (Pix2Seq, 2109.10852).

An object is five tokens: its four corners, each a bin of the image's height or width, and its class. What is wrong with
a box follows one rule everywhere: a box that leaves the image is clipped, one without area or turned inside out is
dropped, objects beyond the most that fit are cut off, and each such case is counted; coordinates that are no numbers
and classes that the codec lacks are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError

OBJECT = 5  # tokens of an object


@dataclass(frozen=True, kw_only=True)
class SequenceCodec:
    """The vocabulary and the order; the defaults are those of the reference (google-research/pix2seq) for COCO.

    A class is `class_shift` plus its label, which counts from `first_class`; a bin is `coordinate_shift` plus 0 to
    `bins - 1`. `axes` says which coordinate of a corner comes first, `class_first` whether the class leads. A sequence
    begins with `start` (the reference's task), ends with `end` where there is one, and is filled up with `pad`.
    `noise` is the class of what is no object. Raises InputError where tokens overlap.
    """

    classes: int = 90
    first_class: int = 1
    bins: int = 1000
    class_shift: int = 100
    coordinate_shift: int = 1000
    axes: Literal["yx", "xy"] = "yx"
    class_first: bool = False
    rounding: Literal["nearest", "floor"] = "nearest"
    start: int = 10
    end: int | None = None
    pad: int = 0
    noise: int | None = 30
    max_objects: int = 100

    def __post_init__(self) -> None:
        if self.bins < 2 or self.classes < 1 or self.max_objects < 1:
            raise InputError(
                f"a codec of {self.bins} bins, {self.classes} classes and {self.max_objects} objects spells nothing; "
                "give at least 2 bins, 1 class and 1 object"
            )
        taken = [*self.class_tokens, *self.coordinate_tokens, *self.special_tokens]
        if len(set(taken)) < len(taken) or min(taken) < 0:
            raise InputError(
                f"classes {_span(self.class_tokens)}, coordinates {_span(self.coordinate_tokens)} and special tokens "
                f"{self.special_tokens} share tokens or lie below 0; shift them apart"
            )

    @property
    def class_tokens(self) -> range:
        """The token of every class, in the order of the labels."""
        first = self.class_shift + self.first_class
        return range(first, first + self.classes)

    @property
    def coordinate_tokens(self) -> range:
        """The token of every bin."""
        return range(self.coordinate_shift, self.coordinate_shift + self.bins)

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Start, padding, and end and noise where there are any."""
        return (self.start, self.pad, *(token for token in (self.end, self.noise) if token is not None))

    @property
    def vocabulary(self) -> int:
        """The fewest words of a model that reads such sequences."""
        return max(*self.class_tokens, *self.coordinate_tokens, *self.special_tokens) + 1

    @property
    def class_place(self) -> int:
        """Where in an object its class stands."""
        return 0 if self.class_first else OBJECT - 1

    @property
    def length(self) -> int:
        """How many tokens the most objects take, with the end where there is one."""
        return self.max_objects * OBJECT + (self.end is not None)


def torch_port(*, classes: int, bins: int, max_objects: int = 100) -> SequenceCodec:
    """As the widespread PyTorch port: bins, classes, start, end and padding in this order; x y x y, rounded down.

    Rounded down, a box comes back within a whole bin, not within half of one.
    """
    start = bins + classes
    return SequenceCodec(
        classes=classes,
        first_class=0,
        bins=bins,
        class_shift=bins,
        coordinate_shift=0,
        axes="xy",
        rounding="floor",
        start=start,
        end=start + 1,
        pad=start + 2,
        noise=None,
        max_objects=max_objects,
    )


def class_led(*, classes: int = 80, bins: int = 1000, max_objects: int = 100) -> SequenceCodec:
    """Bins from 0, classes after them, each object as class x y x y; then start, end, padding and noise."""
    plain = torch_port(classes=classes, bins=bins, max_objects=max_objects)
    return replace(plain, class_first=True, rounding="nearest", noise=plain.pad + 1)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Boxes x0 y0 x1 y1 as fractions of width and height, their labels, and how sure a model is of each.

    Raises InputError where there are more of one than of another.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, " M"]
    scores: Float[Tensor, " K"] | None = None

    def __post_init__(self) -> None:
        for name, others in (("labels", self.labels), ("scores", self.scores)):
            if others is not None and len(others) != len(self.boxes):
                raise InputError(f"{len(self.boxes)} boxes but {len(others)} {name}; give one a box")

    def take(self, rows: Tensor) -> "Objects":
        """Some of the objects, by index or mask."""
        scores = None if self.scores is None else self.scores[rows]
        return Objects(boxes=self.boxes[rows], labels=self.labels[rows], scores=scores)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How many boxes were `clipped`, and how many objects dropped, by reason."""

    clipped: int = 0
    outside: int = 0
    empty: int = 0
    inverted: int = 0
    beyond: int = 0
    broken: int = 0

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __str__(self) -> str:
        counts = {text: getattr(self, name) for name, text in _TOLD.items()}
        return ", ".join(f"{count} {text}" for text, count in counts.items() if count) or "none"

    @property
    def dropped(self) -> int:
        """Objects that are not there any more."""
        return self.outside + self.empty + self.inverted + self.beyond + self.broken


_TOLD: Mapping[str, str] = MappingProxyType(
    {
        "clipped": "clipped to the image",
        "outside": "dropped outside the image",
        "empty": "dropped without area",
        "inverted": "dropped with swapped corners",
        "beyond": "dropped beyond the most objects",
        "broken": "dropped as no object",
    }
)


def quantise(
    values: Float[Tensor, "*shape"], bins: int, *, rounding: Literal["nearest", "floor"] = "nearest"
) -> Int[Tensor, "*shape"]:
    """The bin of each fraction, 0 to `bins - 1`; halves go to the even bin, and what lies outside to the edge."""
    steps = values.to(torch.promote_types(values.dtype, torch.float32)) * (bins - 1)
    steps = steps.round() if rounding == "nearest" else steps.floor()
    return steps.clamp(0, bins - 1).long()


def dequantise(places: Int[Tensor, "*shape"], bins: int) -> Float[Tensor, "*shape"]:
    """The fraction that each bin stands for, never outside 0 to 1."""
    return (places.float() / (bins - 1)).clamp(0, 1)


def fractions(boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """Boxes x0 y0 x1 y1 in pixels of an image of this size (height, width) as fractions."""
    height, width = size
    return boxes / boxes.new_tensor([width, height, width, height])


def pixels(boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """The way back from `fractions`."""
    height, width = size
    return boxes * boxes.new_tensor([width, height, width, height])


def tidy(codec: SequenceCodec, objects: Objects) -> tuple[Objects, Faults]:
    """The objects that can be spelled, and what happened to the others.

    Raises InputError for coordinates that are no numbers and a class that the codec lacks.
    """
    boxes, labels = objects.boxes, objects.labels
    if not torch.isfinite(boxes).all():
        row = int((~torch.isfinite(boxes)).any(1).nonzero()[0])
        raise InputError(f"box {row} is {boxes[row].tolist()}; coordinates must be finite numbers")
    last = codec.first_class + codec.classes - 1
    strange = (labels < codec.first_class) | (labels > last)
    if strange.any():
        raise InputError(
            f"class {int(labels[strange][0])} is unknown; this codec has classes {codec.first_class} to {last}"
        )
    kept = boxes.clamp(0, 1)
    inverted = ((boxes[:, 2:] - boxes[:, :2]) < 0).any(1)
    empty = ~inverted & ((boxes[:, 2:] - boxes[:, :2]) == 0).any(1)
    outside = ~inverted & ~empty & ((kept[:, 2:] - kept[:, :2]) <= 0).any(1)
    good = ~(inverted | empty | outside)
    clipped = good & (kept != boxes).any(1)
    scores = objects.scores
    good = good.nonzero()[:, 0]
    fit = good[: codec.max_objects]
    faults = Faults(
        clipped=int(clipped[fit].sum()),
        outside=int(outside.sum()),
        empty=int(empty.sum()),
        inverted=int(inverted.sum()),
        beyond=len(good) - len(fit),
    )
    return Objects(boxes=kept, labels=labels, scores=scores).take(fit), faults


def encode(codec: SequenceCodec, objects: Objects, *, noise: Bool[Tensor, " N"] | None = None) -> Int[Tensor, " L"]:
    """Five tokens an object, without start, end and padding; `noise` marks those whose class is the noise token.

    The objects are as `tidy` leaves them: within the image, of known classes.
    """
    corners = _turned(codec, objects.boxes)
    places = quantise(corners, codec.bins, rounding=codec.rounding) + codec.coordinate_shift
    classes = objects.labels + codec.class_shift
    if noise is not None:
        if codec.noise is None:
            raise InputError("this codec has no noise class; give it a token as 'noise', or add no noise")
        classes = torch.where(noise, codec.noise, classes)
    parts = (classes[:, None], places) if codec.class_first else (places, classes[:, None])
    return torch.cat(parts, dim=1).flatten()


def decode(
    codec: SequenceCodec, tokens: Int[Tensor, " L"], *, chances: Float[Tensor, " L"] | None = None
) -> tuple[Objects, Faults]:
    """The objects up to the end or the first padding, and how many fives of tokens spell none.

    Objects of the noise class are left out and not counted. `chances` are the probabilities of the tokens: an object's
    score is that of its class. A box smaller than a bin has no area left and stays.
    """
    stops = tokens == (codec.pad if codec.end is None else codec.end)
    stops |= tokens == codec.pad
    begin = int(tokens[:1].eq(codec.start).sum())
    end = int(stops.nonzero()[0]) if stops.any() else len(tokens)
    tokens, chances = tokens[begin:end], None if chances is None else chances[begin:end]
    count, rest = divmod(len(tokens), OBJECT)
    table = tokens[: count * OBJECT].view(count, OBJECT)
    boxes, labels = corners(codec, table), table[:, codec.class_place] - codec.class_shift
    legal_classes = (labels >= codec.first_class) & (labels < codec.first_class + codec.classes)
    places = _places(codec, table)
    real = legal_classes & ((places >= 0) & (places < codec.bins)).all(1)
    inverted = real & ((boxes[:, 2:] - boxes[:, :2]) < 0).any(1)
    noise = torch.zeros_like(real) if codec.noise is None else table[:, codec.class_place] == codec.noise
    scores = None if chances is None else chances[: count * OBJECT].view(count, OBJECT)[:, codec.class_place]
    found = Objects(boxes=boxes, labels=labels, scores=scores).take(real & ~inverted)
    return found, Faults(inverted=int(inverted.sum()), broken=int((~real & ~noise).sum()) + (rest > 0))


def corners(codec: SequenceCodec, table: Int[Tensor, "*batch 5"]) -> Float[Tensor, "*batch 4"]:
    """The boxes x0 y0 x1 y1 of objects, whatever their tokens: none lies outside the image."""
    return _turned(codec, dequantise(_places(codec, table), codec.bins))


def legal(codec: SequenceCodec, vocabulary: int | None = None, *, stop: bool | None = None) -> Bool[Tensor, "5 V"]:
    """Which tokens may stand at each place of an object.

    With `stop` the first place may also be the end, or padding where a codec has no end; the default is to stop where
    there is an end. Without it objects follow until there is no room, the unlikely ones with low scores (the paper's
    way, for a model trained with noise). Raises InputError for a vocabulary without room for the codec.
    """
    size = codec.vocabulary if vocabulary is None else vocabulary
    if size < codec.vocabulary:
        raise InputError(
            f"the codec wants {codec.vocabulary} words but the model has {size}; make its vocabulary larger"
        )
    table = torch.zeros(OBJECT, size, dtype=torch.bool)
    table[:, codec.coordinate_tokens.start : codec.coordinate_tokens.stop] = True
    table[codec.class_place] = False
    table[codec.class_place, codec.class_tokens.start : codec.class_tokens.stop] = True
    if (codec.end is not None) if stop is None else stop:
        table[0, codec.pad if codec.end is None else codec.end] = True
    return table


def _places(codec: SequenceCodec, table: Int[Tensor, "*batch 5"]) -> Int[Tensor, "*batch 4"]:
    four = table[..., 1:] if codec.class_first else table[..., :-1]
    return four - codec.coordinate_shift


def _turned(codec: SequenceCodec, boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Between x y x y and the codec's order, which is its own way back."""
    return boxes if codec.axes == "xy" else boxes[..., [1, 0, 3, 2]]


def _span(tokens: range) -> str:
    return f"{tokens.start} to {tokens.stop - 1}"
