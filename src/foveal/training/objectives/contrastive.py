"""Which text belongs to which image, told from vectors of each alone (CLIP, 2103.00020; BEiT-3, 2208.10442)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.layers.precision import own_dtype
from foveal.training.across import Across, Compared
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("masked", "two_tower"), hidden=(), blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` is the one that makes vectors of images and of texts."""

    head: str = "pair"


def embed(model: nn.Module, batch: Batch, *, head: str = "pair") -> tuple[Float[Tensor, "B N K"], Int[Tensor, "B 2"]]:
    """For each row the vectors of its image and of its text, and numbers that rows with the same of either share.

    Both come from the first token of their own; a model with towers of its own says what they are, and may give an
    image several vectors, `[B N+1 K]`. Raises InputError for a row without an image, or without a text.
    """
    if (towers := getattr(model, "vectors", None)) is not None:
        pairs = model.pairs(batch)  # type: ignore[operator]
        return towers(pairs), keys(batch)
    seen = batch.valid & (batch.image_slot >= 0)
    words = batch.valid & ~seen
    if not (seen.any(1) & words.any(1)).all():
        raise InputError("a row without an image or a text; the contrastive objective compares pairs of the two")
    image = _vectors(model, cut(batch, seen), head)[:, 0]
    text = _vectors(model, replace(cut(batch, words), visual=None, regions=None), head)[:, 1]
    return torch.stack([image, text], dim=1), keys(batch)


def keys(batch: Batch) -> Int[Tensor, "B 2"]:
    """Numbers of each row's image and of its text; rows with the same of either share them."""
    seen = batch.valid & (batch.image_slot >= 0)
    return torch.stack([first_slot(batch, seen), fingerprint(batch.input_ids, batch.valid & ~seen)], dim=1)


def likeness(vectors: Float[Tensor, "B N K"], keys: Int[Tensor, "B 2"]) -> Float[Tensor, "B B"]:
    """How well each image fits each text: the best of its N - 1 vectors beside the text's, which is the last.

    Rows with the same image or the same text are no wrong choices for each other.
    """
    images, text = exact(vectors[:, :-1]), exact(vectors[:, -1])
    with own_dtype(images):
        logits = (images @ text.T).amax(1)
    alike = (keys[:, None] == keys[None]).any(-1) & ~torch.eye(len(keys), dtype=torch.bool, device=keys.device)
    return logits.masked_fill(alike, -torch.inf)


def compare(vectors: Float[Tensor, "B N K"], keys: Int[Tensor, "B 2"]) -> Compared:
    """The cross-entropy, in nats, of each row's text among all texts and of its image among all images, halved."""
    logits, right = likeness(vectors, keys), torch.arange(len(keys), device=keys.device)
    both = [(some, F.cross_entropy(some, right, reduction="sum")) for some in (logits, logits.T)]
    found = sum((some.argmax(1) == right).sum() for some, _ in both) / 2
    loss = (both[0][1] + both[1][1]) / 2
    count = len(keys)
    return loss, count, {"pairs": (loss, count), "accuracy_pairs": (torch.as_tensor(found), count)}


contrastive = Across(embed=embed, compare=compare, counted=(0,))


def cut(batch: Batch, keep: Bool[Tensor, "B L"]) -> Batch:
    """The batch with these tokens alone; what no row keeps is left out."""
    some = keep.any(0).nonzero()[:, 0]
    keep = keep[:, some]
    return Batch(
        input_ids=batch.input_ids[:, some],
        valid=keep,
        prompt=keep,
        image_slot=torch.where(keep, batch.image_slot[:, some], -1),
        visual=batch.visual,
        regions=batch.regions,
        owner=batch.owner,
        types=None if batch.types is None else batch.types[:, some],
        full=bool(keep.all()),
    )


def first_slot(batch: Batch, seen: Bool[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """The first visual token of each row: the same for rows that show the same image."""
    return torch.where(seen, batch.image_slot, torch.iinfo(batch.image_slot.dtype).max).amin(1)


def fingerprint(ids: Int[Tensor, "B L"], words: Bool[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """A number that equal texts share, wherever they stand in their rows; it wraps, and others hardly ever do."""
    made = torch.zeros_like(ids[:, 0])
    for word, valid in zip(ids.unbind(1), words.unbind(1), strict=True):
        made = torch.where(valid, made * 6364136223846793005 + word + 1442695040888963407, made)
    return made


def _vectors(model: nn.Module, batch: Batch, head: str) -> Float[Tensor, "B 2 K"]:
    first = torch.zeros_like(batch.valid).scatter(1, batch.begins[:, None], True)
    return model(batch, at={head: first}).heads[head]
