"""Rows of text whose visual tokens have become fewer: which columns are left, and what stands in a cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.interop.following import SEEN, follow, forget
from foveal.interop.pictures import ANEW, OUT, Picture
from foveal.interop.spending import Left


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch after the cut: `source` is the column that each came from, `valid` False where padding stands, `visual`
    True for visual tokens; `levels` are those of all visual tokens, row by row.
    """

    embeds: Float[Tensor, "B K D"]
    source: Int[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]
    visual: Bool[Tensor, "B K"]
    levels: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a cache holds of the first `columns` columns of a prompt: `valid[B K]`, a key each; the last `tail` keys
    are those of the last columns, in every row.
    """

    columns: int
    valid: Bool[Tensor, "B K"]
    tail: int

    def of_rows(self, chosen: Callable[[Tensor], Tensor]) -> "Seen":
        """The same of other rows."""
        return replace(self, valid=chosen(self.valid))

    @property
    def saved(self) -> int:
        """How many keys fewer there are than columns."""
        return self.columns - self.valid.shape[1]


def remember(cache: Any, seen: Seen) -> None:
    """Leave with a cache what it holds, row by row, and follow its rows from now on."""
    setattr(cache, SEEN, seen)
    follow(cache)


def recall(cache: Any) -> Seen | None:
    """What was left with a cache, of the rows that it has now, and shorter where it was cropped since; None: nothing,
    or it was emptied.

    Raises InputError for a cache that was cropped to within what was cut.
    """
    seen: Seen | None = getattr(cache, SEEN, None)
    if seen is None:
        return None
    held, keys = int(cache.get_seq_length()), seen.valid.shape[1]
    if held == 0:
        forget(cache)
        return None
    if keys - held > seen.tail:
        raise InputError(
            f"a cache cropped to {held} keys of {keys}, of which the last {seen.tail} lie behind what was cut; crop no "
            f"more than these, or {ANEW}"
        )
    if held < keys:
        lost = keys - held
        seen = Seen(columns=seen.columns - lost, valid=seen.valid[:, :held], tail=seen.tail - lost)
        remember(cache, seen)
    return seen


def unbroken(rows: Rows, length: int) -> int:
    """How many of the last places hold the last of `length` columns, one each, in every row."""
    last = torch.arange(length - rows.source.shape[1], length, device=rows.source.device)
    return int(((rows.source == last) & rows.valid).all(0).flip(0).long().cumprod(0).sum())


def assemble(
    embeds: Float[Tensor, "B L D"],
    valid: Bool[Tensor, "B L"],
    visual: Bool[Tensor, "B L"],
    pictures: Sequence[Picture],
    left: Sequence[Left],
) -> Rows:
    """Each row without the visual tokens that were cut, padded on the side where it was, to the longest.

    Padding that all rows share stays, so that a single row is shorter by what its images lost and nothing else.
    """
    rows = [_row(row, embeds[row], valid[row], visual[row], pictures, left) for row in range(len(embeds))]
    width = max(len(source) for source, *_ in rows) + int((~valid & ~visual).sum(1).min())
    source, there, seen = (
        embeds.new_zeros(len(rows), width, dtype=kind) for kind in (torch.long, torch.bool, torch.bool)
    )
    made = embeds.new_zeros(len(rows), width, embeds.shape[-1])
    for row, (columns, features, sight, _) in enumerate(rows):
        begin = width - len(columns) if bool(valid[row, -1] | visual[row, -1]) else 0
        place = slice(begin, begin + len(columns))
        source[row, place], made[row, place], seen[row, place] = columns, features, sight
        there[row, place] = valid[row, columns]
    depths = range(len(left[0].levels))
    levels = tuple(torch.cat([mine[depth] for *_, mine in rows if mine]) for depth in depths)
    return Rows(embeds=made, source=source, valid=there, visual=seen, levels=levels)


def _row(
    row: int,
    embeds: Float[Tensor, "L D"],
    valid: Bool[Tensor, " L"],
    visual: Bool[Tensor, " L"],
    pictures: Sequence[Picture],
    left: Sequence[Left],
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Columns, features, which are visual, and levels of one row."""
    mine = [(picture, part) for picture, part in zip(pictures, left, strict=True) if picture.row == row]
    text = (valid & ~visual).nonzero()[:, 0]
    places = [torch.tensor(picture.columns, device=embeds.device)[part.numbers] for picture, part in mine]
    order = torch.cat([text, *(place.sort().values for place in places)]).argsort(stable=True)
    columns = torch.cat([text, *places])[order]
    features = torch.cat([embeds[text], *(part.features for _, part in mine)])[order]
    levels = tuple(torch.cat(depth) for depth in zip(*(part.levels for _, part in mine), strict=True))
    return columns, features, order >= len(text), levels


def mask_of(given: Tensor | None, *, rows: int, past: int, new: int, device: torch.device) -> Bool[Tensor, "B P"]:
    """Which of the columns so far and of the new ones are valid. Raises InputError for masks of other shapes."""
    if given is None:
        return torch.ones(rows, past + new, dtype=torch.bool, device=device)
    if not isinstance(given, Tensor) or given.ndim != 2:
        raise InputError(
            "a mask over pairs of tokens came where one a token is wanted (static caches bring such); generate with "
            f"the dynamic cache, or {OUT}"
        )
    if given.shape[1] != past + new:
        raise InputError(
            f"a mask of {given.shape[1]} tokens for {past} read before and {new} new ones; feed a compressed model's "
            f"cache the new tokens alone, without chunks, or {ANEW if past else OUT}"
        )
    return given.bool()


def selected(positions: Tensor | None, source: Int[Tensor, "B K"], past: int, length: int) -> Int[Tensor, "*A B K"]:
    """The positions `[.. B L]` that these columns had in the whole prompt; None: they count on from `past`."""
    if positions is None:
        positions = torch.arange(past, past + length, device=source.device)[None]
    whole = positions.expand(*positions.shape[:-2], len(source), positions.shape[-1])
    return whole.gather(-1, source.expand(*whole.shape[:-2], *source.shape))


def within(config: Any, columns: int) -> None:
    """Raises InputError where layers look back over fewer than so many columns: they would count those left."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    _, layers = get_layer_types_and_kwargs(config)
    windows = [layer["sliding_window"] for layer in layers if layer.get("sliding_window")]
    if windows and min(windows) < columns:
        raise InputError(
            f"{columns} tokens, and layers that look back over {min(windows)}: these would look further than they "
            f"should where some are cut; give a shorter prompt, or {OUT}"
        )


def one_sequence(config: Any, valid: Bool[Tensor, "1 P"], *, new: int) -> dict[str, Any]:
    """What tells FlashAttention that a row which goes on from a cache, and whose positions leave some out, is one.

    Without it transformers takes a single row with gaps for several that are packed, and forgets what is cached.
    """
    from transformers.utils.generic import is_flash_attention_requested

    if not is_flash_attention_requested(config):
        return {}
    keys = valid.shape[1]
    read, held = (valid.new_tensor([0, length], dtype=torch.int32) for length in (new, keys))
    return {"cu_seq_lens_q": read, "cu_seq_lens_k": held, "max_length_q": new, "max_length_k": keys}
