"""Texts and pictures with parts hidden or exchanged, for the objectives that have them found again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.preprocess.collate import identity
from foveal.preprocess.tokens import Encoded

MASK, RANDOM = 0.8, 0.1  # of the chosen words; the rest stay as they are (BERT, 1810.04805)
BELONGS, FOREIGN = 0, 1  # classes of a text beside its images, as VisualBERT and ViLBERT number them


@dataclass(frozen=True, kw_only=True)
class Masking:
    """The shares of words and of regions that are hidden, and of rows that get the text of other images."""

    words: float = 0.15
    regions: float = 0.15
    foreign: float = 0.5

    def __post_init__(self) -> None:
        for name in ("words", "regions", "foreign"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"masking.{name} is {getattr(self, name)}; give a share from 0 to 1")


def exchanged(rows: Sequence[Encoded], share: float, chance: np.random.Generator) -> tuple[list[Encoded], list[int]]:
    """Rows of which a share says what is said of other images of the batch, and which text belongs.

    A row keeps its text where no other row has as many images, none of them its own, and another text.
    """
    pictures = [tuple(map(identity, one.example.images)) for one in rows]
    made, classes = list(rows), [BELONGS] * len(rows)
    for place in np.flatnonzero(chance.random(len(rows)) < share).tolist():
        mine, shown = rows[place], pictures[place]
        others = [
            one
            for one, theirs in zip(rows, pictures, strict=True)
            if len(theirs) == len(shown) > 0 and not set(theirs) & set(shown) and not np.array_equal(one.ids, mine.ids)
        ]
        if others:
            other = others[chance.integers(len(others))]
            made[place], classes[place] = replace(other, example=mine.example, where=mine.where), FOREIGN
    return made, classes


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a tokenizer offers for masking: its mask token, and which ids are words."""

    mask: int
    ordinary: Tensor  # [V], bool

    @classmethod
    def of(cls, vocabulary: int, special: Sequence[int], mask: int | None) -> "Words":
        """Raises InputError where there is no mask token."""
        if mask is None:
            raise InputError(
                "words cannot be masked: the tokenizer has no mask token; "
                "use tokenizer: words, or one that was trained with a mask token"
            )
        ordinary = torch.ones(vocabulary, dtype=torch.bool)
        ordinary[list(special)] = False
        return cls(mask=mask, ordinary=ordinary)


def mask_words(batch: Batch, share: float, words: Callable[[], Words], chance: np.random.Generator) -> Batch:
    """The batch with a share of its words (one at least) hidden in `input_ids` and named in `labels`.

    Of those hidden 80% are the mask token, 10% a random word and 10% as they were. Rows of a foreign text, special
    tokens and visual tokens keep theirs.
    """
    if not share:
        return replace(batch, labels=None)
    found, ids = words(), batch.input_ids
    may = batch.valid & (batch.image_slot < 0) & found.ordinary[ids]
    if "matching" in batch.targets:
        may = may & (batch.targets["matching"] == BELONGS)[:, None]
    chosen = _some(may, share, chance)
    fate = torch.from_numpy(chance.random(ids.shape))
    table = found.ordinary.nonzero().flatten()
    random = table[torch.from_numpy(chance.integers(len(table), size=ids.shape))]
    hidden = torch.where(fate < MASK, found.mask, torch.where(fate < MASK + RANDOM, random, ids))
    return replace(batch, input_ids=torch.where(chosen, hidden, ids), labels=torch.where(chosen, ids, IGNORE))


def mask_regions(total: int, share: float, chance: np.random.Generator) -> Tensor:
    """Which of `total` visual tokens are hidden: a share of them, one at least where there are any."""
    return _some(torch.ones(total, dtype=torch.bool), share, chance)


def _some(may: Tensor, share: float, chance: np.random.Generator) -> Tensor:
    places = may.flatten().nonzero().flatten()
    count = min(len(places), max(1, round(share * len(places)))) if share else 0
    chosen = torch.zeros(may.numel(), dtype=torch.bool)
    chosen[places[torch.from_numpy(chance.permutation(len(places))[:count])]] = True
    return chosen.view(may.shape)
