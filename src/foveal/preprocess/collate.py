"""Tokenised conversations to the tensors of a batch: slots laid out, rows packed, trunks shared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import identity as of_picture
from foveal.core.types import IGNORE, Batch, Fan, Layout
from foveal.layers.axes import axial_positions, extent
from foveal.preprocess.image import Part, Whole
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.tokens import Encoded
from foveal.preprocess.video import among

Padding = Literal["left", "right"]
Places = Literal["line", "grid", "frames"]  # where the tokens of an image stand
Group = Sequence[Encoded]  # conversations about the same images
Stretch = Mapping[str, np.ndarray]  # the fields of a part of a row
_FIELDS = {"ids": 0, "slots": -1, "labels": IGNORE, "prompt": 0, "segment": -1, "branch": 0, "positions": 0, "valid": 0}


class Tokens(NamedTuple):
    """A stretch of a row: ids, visual token of each place (-1: text), labels, and the prompt as 0 or 1."""

    ids: np.ndarray
    slots: np.ndarray
    labels: np.ndarray
    prompt: np.ndarray


def lengths(conversation: Encoded, counts: Sequence[int]) -> np.ndarray:
    """How many tokens each entry of the conversation becomes when image k brings `counts[k]`.

    An image that stands in several places has an equal part of its tokens at each; what is left over goes to the first.
    """
    sizes = np.ones(len(conversation.ids), np.int64)
    places = np.flatnonzero(conversation.ids < 0)
    shown, number = -1 - conversation.ids[places], np.asarray(counts, np.int64)
    parts = _parts(conversation, len(counts))
    order = np.argsort(shown, kind="stable")
    turn = np.empty_like(shown)
    turn[order] = np.arange(len(shown)) - (np.cumsum(parts) - parts)[shown[order]]
    each, over = np.divmod(number, parts.clip(1))
    sizes[places] = each[shown] + (turn < over[shown])
    return sizes


def _parts(conversation: Encoded, images: int) -> np.ndarray:
    """In how many places each image stands."""
    return np.bincount(-1 - conversation.ids[conversation.ids < 0], minlength=images)


def _check_parts(group: Group, images: Sequence[int], layout: Layout) -> None:
    """Raise InputError for the tokens of tiles that do not fill the places of these; others are shared out."""
    for one in group:
        for number, (image, parts) in enumerate(zip(images, _parts(one, len(images)).tolist(), strict=True), 1):
            tiles = layout.grids[image] is None and (layout.cut is None or layout.cut[image] is None)
            if tiles and layout.places[image] % max(parts, 1):
                raise InputError(
                    f"{one.where} parts the {layout.places[image]} tokens of image {number} into {parts} places; "
                    "leave out processor.spelling, or what the model puts between tiles"
                )


def trunk(group: Group) -> int:
    """How many first entries all conversations share; the last entry before an answer is never among them.

    A branch so begins before its answer, and its first answer token is predicted from inside the branch.
    """
    if len(group) == 1:
        return 0
    most = min(min(one.prompt, len(one.ids)) - 1 for one in group)
    first = group[0].ids[: max(most, 0)]
    for one in group[1:]:
        same = first == one.ids[: len(first)]
        first = first if same.all() else first[: int(np.argmin(same))]
    return len(first)


def size(group: Group, counts: Sequence[int]) -> int:
    """Tokens of a group in a row: its trunk once, then every branch."""
    shared = trunk(group)
    each = [lengths(one, counts) for one in group]
    return int(each[0][:shared].sum() + sum(sizes[shared:].sum() for sizes in each))


def split(group: Group, counts: Sequence[int], length: int) -> list[Group]:
    """The group in parts of at most `length` tokens, each with the trunk again."""
    if len(group) == 1 or size(group, counts) <= length:
        return [group]
    parts: list[list[Encoded]] = [[]]
    for one in group:
        if parts[-1] and size([*parts[-1], one], counts) > length:
            parts.append([])
        parts[-1].append(one)
    return list(parts)


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Which entries share a row of `length`: each, the largest first, goes into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if sizes[index] > length:
            raise InputError(f"a conversation of {sizes[index]} tokens for rows of {length}; raise the row length")
        row = next((r for r, free in enumerate(room) if free >= sizes[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(index)
        room[row] -= sizes[index]
    return [sorted(row) for row in rows]


def packed(groups: Sequence[Group], counts: Sequence[Sequence[int]], length: int) -> Sequence[Sequence[Group]]:
    """Rows of at most `length` tokens that hold all groups, each whole or split."""
    parts = [(part, c) for group, c in zip(groups, counts, strict=True) for part in split(group, c, length)]
    return [[parts[i][0] for i in row] for row in pack([size(part, c) for part, c in parts], length)]


def fitted(one: Encoded, counts: Sequence[int], limit: int, *, truncate: bool) -> Encoded:
    """The conversation itself where it has at most `limit` tokens, or with `truncate` as much of its text as has.

    Raises InputError for one that is too long, or too long without what would be cut of its images.
    """
    ends = lengths(one, counts).cumsum()
    if ends[-1] <= limit:
        return one
    kept = int((ends <= limit).sum())
    images = int((one.ids < 0).sum())
    if (one.ids[kept:] < 0).any():
        fit = int(lengths(one, counts)[:kept][one.ids[:kept] < 0].sum())
        raise InputError(
            f"{one.where} has {ends[-1]} tokens for {limit}; cutting it would leave {fit} of {sum(counts)} tokens "
            f"of its {images} images, and images are not cut: raise the context or plan fewer visual tokens"
        )
    if not truncate:
        raise InputError(
            f"{one.where} has {ends[-1]} tokens ({sum(counts)} of them of images), but {limit} fit; "
            "raise the context, or set truncate to cut text from the end"
        )
    return replace(one, ids=one.ids[:kept], loss=one.loss[:kept], prompt=min(one.prompt, kept))


def laid(one: Encoded, counts: Sequence[int], starts: Sequence[int], fill: int, entries: slice) -> Tokens:
    """Some entries as tokens: image k becomes `counts[k]` slots from visual token `starts[k]` on, place after place."""
    ids, loss = one.ids[entries], one.loss[entries]
    prompt = np.arange(len(one.ids))[entries] < one.prompt
    images = np.flatnonzero(ids < 0)
    fills = np.array(one.fills or (fill,))
    text = np.where(ids < 0, fills[(-1 - ids).clip(0, len(fills) - 1)], ids)
    labels = np.where(loss, text, IGNORE)
    if not len(images):
        return Tokens(ids, np.full(len(ids), -1), labels, prompt)
    every, begin = lengths(one, counts), entries.start or 0
    repeats = every[entries]
    ends = np.cumsum(repeats)
    slots = np.full(ends[-1], -1, np.int64)
    done = np.array(starts, np.int64)
    before = np.flatnonzero(one.ids[:begin] < 0)
    np.add.at(done, -1 - one.ids[before], every[before])
    for place in images:
        image = -1 - ids[place]
        slots[ends[place] - repeats[place] : ends[place]] = done[image] + np.arange(repeats[place])
        done[image] += repeats[place]
    return Tokens(np.repeat(text, repeats), slots, np.repeat(labels, repeats), np.repeat(prompt, repeats))


def collate(
    rows: Sequence[Sequence[Group]],
    layout: Layout,
    places: Sequence[Sequence[int]],
    *,
    padding: Padding,
    pad: int,
    fill: int,
    length: int | None = None,
    mutual: bool = False,
    positions: Places = "line",
) -> Batch:
    """A batch without its visual part: row after row of groups.

    `places` holds, for each group in turn, which images of `layout` are its own; an image belongs to the first row
    that shows it, and there to the first conversation. Segments, branches and positions are written only where a row
    holds more than one conversation.
    `length` pads every row to it. `mutual` writes the order in which the tokens of an image see each other. With
    `positions` other than a line, images lie on their grids, and the frames of videos in time or each by itself.
    """
    lying = {"line": None, "grid": layout, "frames": layout.by_frame()}[positions]
    made: list[list[Stretch]] = []
    owner, conversation = np.full((2, len(layout.counts)), -1)
    offsets, remaining = layout.offsets, iter(places)
    for number, groups in enumerate(rows):
        parts = []
        for segment, group in enumerate(groups):
            images = list(next(remaining))
            conversation[images] = np.where(owner[images] < 0, segment, conversation[images])
            owner[images] = np.where(owner[images] < 0, number, owner[images])
            _check_parts(group, images, layout)
            counts, starts = [layout.places[i] for i in images], [offsets[i] for i in images]
            parts += _grouped(group, counts, starts, fill, segment, lying)
        made.append(parts)
    fan = _fan(made) if padding == "right" and length is None and all(len(groups) == 1 for groups in rows) else None
    if fan is not None:
        made = [_fanned(parts, fan, pad) for parts in made]
    joined = [{name: np.concatenate([part[name] for part in parts]) for name in _FIELDS} for parts in made]
    width = max([length or 0, *(len(row["ids"]) for row in joined)])
    tensors = {name: _padded(joined, name, width, padding, pad) for name in _FIELDS}
    order = _order(tensors["slots"], layout) if mutual else None
    if fan is not None and order is not None:
        fan = None if (tensors["slots"][:, fan.trunk :] >= 0).any() else _mutual(fan, order[:, : fan.trunk])
    segments = any(len(groups) > 1 for groups in rows)
    branches = any(len(group) > 1 for groups in rows for group in groups)
    return Batch(
        input_ids=tensors["ids"],
        valid=tensors["valid"].bool(),
        prompt=tensors["prompt"].bool(),
        image_slot=tensors["slots"],
        owner=torch.from_numpy(owner),
        labels=tensors["labels"],
        positions=tensors["positions"] if segments or branches or lying is not None else None,
        segment=tensors["segment"] if segments else None,
        conversation=torch.from_numpy(conversation) if segments else None,
        branch=tensors["branch"] if branches else None,
        order=order,
        full=not (segments or branches) and bool(tensors["valid"].all()),
        fan=fan,
    )


def _order(slots: Tensor, layout: Layout) -> Tensor:
    """Each token's place, and for the tokens of an image that of the first of them."""
    place = torch.arange(slots.shape[1]).expand_as(slots)
    image = torch.bucketize(slots, torch.tensor(layout.offsets[1:]), right=True)
    before = torch.nn.functional.pad(image[:, :-1], (1, 0), value=-1)
    begins = (slots < 0) | (image != before) | torch.nn.functional.pad(slots[:, :-1] < 0, (1, 0), value=True)
    return torch.where(begins, place, 0).cummax(dim=1).values


def _mutual(fan: Fan, order: Tensor) -> Fan | None:
    """The fan with the trunk's spans of equal order; None where the rows' trunks differ in them."""
    if not (order == order[0]).all():
        return None
    values, counts = order[0].unique_consecutive(return_counts=True)
    spans = [(begin, begin + count) for begin, count in zip(values.tolist(), counts.tolist(), strict=True) if count > 1]
    return replace(fan, mutual=tuple(spans))


def _fan(rows: Sequence[Sequence[Stretch]]) -> Fan | None:
    """The fan that holds every row, where all have a trunk of one length and at most a third would be padding."""
    trunks = {len(parts[0]["ids"]) if len(parts) > 2 and not parts[0]["branch"][0] else 0 for parts in rows}
    if len(trunks) != 1 or 0 in trunks:
        return None
    fan = Fan(
        trunk=trunks.pop(),
        branches=max(len(parts) for parts in rows) - 1,
        length=max(len(part["ids"]) for parts in rows for part in parts[1:]),
    )
    needed = sum(len(part["ids"]) for parts in rows for part in parts)
    return fan if 2 * len(rows) * (fan.trunk + fan.branches * fan.length) <= 3 * needed else None


def _fanned(parts: Sequence[Stretch], fan: Fan, pad: int) -> list[Stretch]:
    """The stretches of a row with every branch padded on its right, and empty branches after them."""
    blocks = [_filled(part, fan.length, pad) for part in parts[1:]]
    empty = {name: blocks[0][name][:0] for name in _FIELDS}
    return [parts[0], *blocks, *[_filled(empty, fan.length, pad)] * (fan.branches - len(blocks))]


def _filled(part: Stretch, length: int, pad: int) -> Stretch:
    more = length - len(part["ids"])
    ends = {name: pad if name == "ids" else fill for name, fill in _FIELDS.items()}
    filling = {name: np.full((more, *part[name].shape[1:]), ends[name]) for name in _FIELDS}
    return {name: np.concatenate([part[name], filling[name]]) for name in _FIELDS}


def _grouped(
    group: Group, counts: Sequence[int], starts: Sequence[int], fill: int, segment: int, lying: Layout | None
) -> list[Stretch]:
    """A trunk and its branches (or one conversation) as stretches of a row."""
    shared = trunk(group)
    parts: list[tuple[Tokens, int, int]] = []
    begin = 0
    if shared:
        stem = laid(group[0], counts, starts, fill, slice(0, shared))
        parts.append((stem, 0, 0))
        begin = len(stem.ids) if lying is None else extent(torch.from_numpy(stem.slots), lying)
    for number, one in enumerate(group):
        branch = number + 1 if len(group) > 1 else 0
        parts.append((laid(one, counts, starts, fill, slice(shared, None)), branch, begin))
    return [_stretch(tokens, branch, first, segment, lying) for tokens, branch, first in parts]


def _stretch(tokens: Tokens, branch: int, first: int, segment: int, lying: Layout | None) -> Stretch:
    count = len(tokens.ids)
    places = first + np.arange(count) if lying is None else _lying(tokens.slots, lying, first)
    return {
        **tokens._asdict(),
        "segment": np.full(count, segment),
        "branch": np.full(count, branch),
        "positions": places,
        "valid": np.ones(count, np.int64),
    }


def _lying(slots: np.ndarray, layout: Layout, first: int) -> np.ndarray:
    """Positions of words and of images on their grids, from a first one on."""
    row = torch.from_numpy(slots.astype(np.int64))[None]
    everywhere = torch.ones_like(row, dtype=torch.bool)
    return axial_positions(row, everywhere, layout, first=torch.tensor([first]))[0].numpy()


def _padded(rows: Sequence[Stretch], name: str, width: int, padding: Padding, pad: int) -> Tensor:
    shape = (len(rows), width, *(rows[0][name].shape[1:] if rows else ()))
    table = np.full(shape, pad if name == "ids" else _FIELDS[name], np.int64)
    for row, values in zip(table, rows, strict=True):
        count = len(values[name])
        row[width - count :] = values[name] if padding == "left" else row[width - count :]
        if padding == "right":
            row[:count] = values[name]
    return torch.from_numpy(table)


def identity(image: Any) -> Any:
    """What two mentions of one picture share, as `core.example` has it, and whether it is whole or a part."""
    if isinstance(image, Whole):
        return identity(image.image), Whole
    if isinstance(image, Part):
        return identity(image.image), image.number
    return of_picture(image)


def same_images(group: Group) -> bool:
    """Whether conversations speak of the same pictures in the same order."""
    return len({tuple(map(identity, one.example.images)) for one in group}) == 1


def pictures(
    groups: Iterable[Group], *, shared: bool = False, tiling: Tiling | None = None
) -> tuple[list[Any], list[list[int]]]:
    """The images of all groups in order, and for each group which of them are its own; `shared`: equal ones once.

    What the `tiling` does not cut is `Whole`.
    """
    images: list[Any] = []
    places: list[list[int]] = []
    known: dict[Any, int] = {}
    for group in groups:
        mine = []
        for image in among(group[0].example.images, tiling):
            place = known.setdefault(identity(image), len(images)) if shared else len(images)
            if place == len(images):
                images.append(image)
            mine.append(place)
        places.append(mine)
    return images, places
