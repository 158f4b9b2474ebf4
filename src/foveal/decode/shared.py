"""Many continuations of one beginning: what rows share, such as the picture they ask about, is read once."""

from collections.abc import Collection
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.types import Batch
from foveal.decode.generate import Writer, check_room, generate
from foveal.decode.sampling import Sampling, greedy
from foveal.layers.cache import KVCache


def shared_length(batch: Batch, group: Int[Tensor, " B"]) -> int:
    """How many first tokens the rows of every group have in common; at least one token is left to each row."""
    first = heads(group)[group]
    same = (batch.input_ids == batch.input_ids[first]) & (batch.image_slot == batch.image_slot[first])
    same &= batch.valid & batch.valid[first]
    common = same.cumprod(1).sum(1)
    return max(0, int(torch.minimum(common, batch.valid.sum(1) - 1).min()))


def heads(group: Int[Tensor, " B"]) -> Int[Tensor, " G"]:
    """The first row of each group 0, 1, 2 ..."""
    return torch.stack([(group == number).nonzero()[0, 0] for number in range(int(group.max()) + 1)])


def generate_shared(
    model: Writer,
    batch: Batch,
    *,
    group: Int[Tensor, " B"],
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    pad_id: int = 0,
    sampling: Sampling = greedy,
) -> Int[Tensor, "B M"]:
    """What `generate` returns, faster where rows of a group (0, 1, 2 ...) begin alike: the beginning is read once.

    The rows are padded on the right, and rows of a group point at the same visual tokens. Takes the errors of
    `generate`.
    """
    check_room(model, int(batch.valid.sum(1).max()), max_new_tokens)
    first = heads(group)
    length, cache = shared_length(batch, group), None
    whole = batch.order is None or not (batch.image_slot[:, length:] >= 0).any()  # mutual tokens must not be parted
    whole = whole and batch.looks is None  # which name images by their number among all of a row
    whole = whole and not getattr(model, "hears_later", False)
    steered = getattr(model, "steered", False)
    whole = whole and (batch.seen is not None or not steered)  # each row's own words say what is seen for it
    if length > 0 and whole and len(first) < len(group):
        trunk = _read(model, _part(batch, first, slice(0, length)))
        batch = _part(batch, torch.arange(len(group), device=group.device), slice(length, None))
        cache = trunk.fork(group, length + batch.input_ids.shape[1] + max_new_tokens - 1)
    return generate(
        model,
        batch,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        pad_id=pad_id,
        sampling=sampling,
        cache=cache,
    )


@torch.no_grad()
def _read(model: Writer, trunk: Batch) -> KVCache:
    rows, length = trunk.input_ids.shape
    cache = model.language.cache(rows, length)
    assert isinstance(cache, KVCache)
    model(trunk, cache=cache, keep="last")
    return cache


def _part(batch: Batch, rows: Int[Tensor, " N"], columns: slice) -> Batch:
    """Some rows and columns; without a place for a visual token there, none are carried along."""
    parts = {name: getattr(batch, name)[rows, columns] for name in ("input_ids", "valid", "prompt", "image_slot")}
    parts["positions"] = None if batch.positions is None else batch.positions[rows, columns]
    seen = bool((parts["image_slot"] >= 0).any())
    parts["order"] = batch.order[rows, columns] if seen and batch.order is not None else None  # text sees all before
    parts |= {} if seen else {"visual": None, "seen": None}
    return replace(batch, **parts, labels=None, full=bool(parts["valid"].all()))
