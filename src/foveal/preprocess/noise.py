"""Sequence augmentation: boxes that are none, told so, teach a model to go on past the last object (2109.10852).

Every function draws from the generator that it is given and leaves its inputs as they are.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.preprocess.sequence import OBJECT, Objects, SequenceCodec, encode

Corruption = Literal["none", "rand_cls", "real_n_fake_cls", "rand_n_fake_cls", "real_n_rand_n_fake_cls"]
Ordering = Literal["random", "area", "dist2ori", "none"]
DUPLICATE = 0.1  # how far a duplicate strays at most, as a share of its width and height


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How objects become a training sequence; the defaults are the reference's.

    `noise` fills every sequence with noise objects up to the most there may be. `noise_weight` is the weight of their
    class (their places have none), `end_weight` that of the end and the padding. `corruption` names what a model reads
    in the place of a class: a random one (rand), the noise class (fake), the true one (real), or one of two at even
    odds; the last of the five is real at even odds with the fourth.
    """

    noise: bool = True
    noise_weight: float = 1.0
    end_weight: float = 0.1
    corruption: Corruption = "rand_n_fake_cls"
    order: Ordering = "random"

    def __post_init__(self) -> None:
        if min(self.noise_weight, self.end_weight) < 0:
            raise InputError(
                f"noise_weight {self.noise_weight} and end_weight {self.end_weight}; give weights of 0 or more"
            )


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers within two deviations: what lies outside is drawn again."""
    drawn = torch.randn(shape, generator=generator)
    while (far := drawn.abs() > 2).any():
        drawn[far] = torch.randn(int(far.sum()), generator=generator)
    return drawn


def jittered(boxes: Float[Tensor, "N 4"], most: float, generator: torch.Generator) -> Float[Tensor, "N 4"]:
    """Each corner moved by at most `most` of the box's width or height, and clipped to the image."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + sides * _normal(tuple(boxes.shape), generator) * (most / 2)).clamp(0, 1)


def _around(centres: Tensor, sides: Tensor) -> Tensor:
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1).clamp(0, 1)


def shifted(boxes: Float[Tensor, "N 4"], generator: torch.Generator) -> Float[Tensor, "N 4"]:
    """Boxes of the same sizes anywhere in the image, clipped to it."""
    return _around(torch.rand(len(boxes), 2, generator=generator), (boxes[:, 2:] - boxes[:, :2]).abs())


def anywhere(count: int, generator: torch.Generator) -> Float[Tensor, "N 4"]:
    """Boxes of any place and size, clipped to the image."""
    centres = torch.rand(count, 2, generator=generator)
    return _around(centres, _normal((count, 2), generator).abs() / 2)


def noise_boxes(boxes: Float[Tensor, "N 4"], count: int, generator: torch.Generator) -> Float[Tensor, "M 4"]:
    """`count` boxes that are none: near duplicates, a random number of them, and bad ones, in random order.

    Bad ones are true boxes shifted elsewhere, or boxes of any kind; without true boxes all are of the last kind.
    """
    if not count or not len(boxes):
        return anywhere(count, generator)
    duplicates = int(torch.randint(count + 1, (), generator=generator))
    tiled = boxes.repeat(count // len(boxes) + 1, 1)
    bad = count - duplicates
    candidates = torch.cat([shifted(_shuffled(tiled, generator)[:bad], generator), anywhere(bad, generator)])
    near = jittered(_shuffled(tiled, generator)[:duplicates], DUPLICATE, generator)
    return _shuffled(torch.cat([_shuffled(candidates, generator)[:bad], near]), generator)


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def ordered(objects: Objects, order: Ordering, generator: torch.Generator) -> Objects:
    """The objects in random order, the largest first, or those nearest to the left top corner first."""
    boxes = objects.boxes
    if order == "none":
        return objects
    if order == "random":
        return objects.take(torch.randperm(len(boxes), generator=generator))
    near = boxes[:, :2].square().sum(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return objects.take((near if order == "dist2ori" else -areas).argsort(stable=True))


def with_noise(
    codec: SequenceCodec, objects: Objects, generator: torch.Generator
) -> tuple[Objects, Bool[Tensor, " N"]]:
    """The objects, then noise up to the most that the codec holds; and which they are. Labels of noise mean nothing."""
    boxes = noise_boxes(objects.boxes, codec.max_objects - len(objects.boxes), generator)
    none = torch.full((len(boxes),), codec.first_class, dtype=objects.labels.dtype)
    filled = Objects(boxes=torch.cat([objects.boxes, boxes]), labels=torch.cat([objects.labels, none]))
    return filled, torch.arange(len(filled.boxes)) >= len(objects.boxes)


def corrupted(
    codec: SequenceCodec, classes: Int[Tensor, " N"], how: Corruption, generator: torch.Generator
) -> Int[Tensor, " N"]:
    """The class tokens that a model reads in the place of these; random ones lie anywhere in the classes' range.

    Raises InputError where a noise class is wanted and the codec has none.
    """
    if how == "none":
        return classes
    room = range(codec.class_shift, codec.coordinate_shift)  # in the reference's layout more than there are classes
    room = room if len(room) else codec.class_tokens
    random = torch.randint(room.start, room.stop, classes.shape, generator=generator)
    if how == "rand_cls":
        return random
    if codec.noise is None:
        raise InputError(f"corruption {how!r} wants a noise class, and this codec has none; use rand_cls or none")
    fake = torch.full_like(classes, codec.noise)

    def either(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(torch.rand(classes.shape, generator=generator) > 0.5, one, other)

    if how == "real_n_fake_cls":
        return either(classes, fake)
    drawn = either(random, fake)
    return drawn if how == "rand_n_fake_cls" else either(classes, drawn)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One training sequence: what is read, from the start on, what should follow each token, and how much it counts."""

    read: Int[Tensor, " L"]
    follow: Int[Tensor, " L"]
    weights: Float[Tensor, " L"]


def lesson(codec: SequenceCodec, objects: Objects, how: Augmentation, generator: torch.Generator) -> Lesson:
    """Objects, as `tidy` leaves them, in order and with noise behind them."""
    objects = ordered(objects, how.order, generator)
    noise = torch.zeros(len(objects.boxes), dtype=torch.bool)
    if how.noise:
        objects, noise = with_noise(codec, objects, generator)
    return spelled(codec, objects, noise, how, generator)


def spelled(
    codec: SequenceCodec, objects: Objects, noise: Bool[Tensor, " N"], how: Augmentation, generator: torch.Generator
) -> Lesson:
    """A sequence of `codec.length` tokens for these objects, some of them noise.

    Places of noise weigh nothing, its class `noise_weight`. After the last object comes the end where there is one,
    with the weight of the end, and padding: without an end the padding is learned in its place, else it counts nothing.
    """
    follow = encode(codec, objects, noise=noise if bool(noise.any()) else None).view(-1, OBJECT)
    at, read = codec.class_place, follow.clone()
    read[:, at] = corrupted(codec, follow[:, at], how.corruption, generator)
    weights = torch.where(noise, 0.0, 1.0)[:, None].repeat(1, OBJECT)
    weights[:, at] = torch.where(noise, how.noise_weight, 1.0)
    ending = torch.full((codec.length - follow.numel(),), codec.pad)
    heavy = torch.full(ending.shape, how.end_weight)
    if codec.end is not None:
        ending[0], heavy[1:] = codec.end, 0.0
    read = torch.cat([torch.tensor([codec.start]), read.flatten(), ending])
    return Lesson(
        read=read[:-1],
        follow=torch.cat([follow.flatten(), ending]),
        weights=torch.cat([weights.flatten(), heavy]),
    )
