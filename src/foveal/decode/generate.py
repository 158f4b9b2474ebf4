"""Token after token: one pass over the prompt, then one a token over what the cache holds."""

import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.interfaces import GenerativeModel
from foveal.core.types import Batch, Cache, Output
from foveal.decode.sampling import Sampling, greedy
from foveal.layers.cache import KVCache
from foveal.layers.cache import join as cache_of


@runtime_checkable
class Writer(Protocol):
    """A model that scores the next token: any causal assembly."""

    @property
    def language(self) -> GenerativeModel:
        """The language model, which knows its context and makes its cache."""
        ...

    def __call__(self, batch: Batch, *, cache: Cache | None, keep: str) -> Output:
        """Logits of the `last` token, `[B 1 V]`."""
        ...


def left_padded(batch: Batch) -> Batch:
    """The same rows with their padding moved to the left, so that every row ends at its last token."""
    return batch.only(batch.valid.byte().argsort(dim=1, stable=True))


def generate(
    model: Writer,
    batch: Batch,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    pad_id: int = 0,
    sampling: Sampling = greedy,
    cache: Cache | None = None,
    pictures: bool = False,
) -> Int[Tensor, "B M"]:
    """New tokens alone (M is at most `max_new_tokens`), `pad_id` after a row's stop; takes the errors of `stream`."""
    steps = stream(
        model,
        batch,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        pad_id=pad_id,
        sampling=sampling,
        cache=cache,
        pictures=pictures,
    )
    return torch.stack(list(steps), dim=1)


def stream(
    model: Writer,
    batch: Batch,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    pad_id: int = 0,
    sampling: Sampling = greedy,
    cache: Cache | None = None,
    pictures: bool = False,
) -> Iterator[Int[Tensor, " B"]]:
    """The next token of every row, step by step, until all rows have stopped (their stop token is the last given).

    `cache` holds what stands before the batch, and has room for it and for the new tokens but the last. Words that
    pictures are made of (the model's `picture_words`) are written only where `pictures` lets them. Raises
    InputError for an empty row, packed rows, and prompts that leave no room in the context.
    """
    max_new_tokens = new_tokens(max_new_tokens)
    prompt = ready(model, batch, [max_new_tokens] * len(batch.valid))
    stops = torch.tensor(sorted(stop_ids), device=batch.valid.device)
    sampling = sampling if pictures else in_words(model, sampling)
    return _steps(model, prompt, cache, max_new_tokens, stops, pad_id, sampling)


def spoken(ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """A row's tokens up to its first stop."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])


def new_tokens(given: Any) -> int:
    """How many tokens may be written; raises InputError for anything but a whole number of 1 or more."""
    try:
        number = operator.index(given)
    except TypeError:
        raise InputError(f"max_new_tokens is {given!r}; give a whole number, 1 or more") from None
    if number < 1:
        raise InputError(f"max_new_tokens is {number}; ask for at least 1")
    return number


def in_text(logits: Float[Tensor, "*batch V"], unsaid: Int[Tensor, " K"]) -> Float[Tensor, "*batch V"]:
    """The scores with the least number there is for words that text does not hold (Chameleon, 2405.09818)."""
    return logits.index_fill(-1, unsaid.to(logits.device), torch.finfo(logits.dtype).min)


def in_words(model: Writer, sampling: Sampling) -> Sampling:
    """The same choice among the words of text alone, where the model has words that pictures are made of."""
    unsaid: Tensor | None = getattr(model, "picture_words", None)
    if unsaid is None:
        return sampling
    return lambda logits, prompt, new: sampling(in_text(logits, unsaid), prompt, new)


def check_room(model: Writer, length: int, new: int) -> None:
    """Raise InputError where a prompt of `length` tokens and `new` ones pass the model's context."""
    if length + new > model.language.context:
        raise InputError(
            f"a prompt of {length} tokens and {new} new ones do not fit the context of {model.language.context}; "
            "shorten the prompt or ask for fewer"
        )


def ready(model: Writer, batch: Batch, new: Sequence[int]) -> Batch:
    """Prompts of rows that go on by so many tokens at most, each ending at its last; takes the errors of `stream`."""
    if batch.segment is not None or batch.branch is not None:
        raise InputError("packed rows cannot be continued; give one conversation a row")
    lengths = batch.valid.sum(1).tolist()
    if not all(lengths):
        raise InputError(f"row {lengths.index(0)} has no tokens; give it a prompt")
    for length, more in zip(lengths, new, strict=True):
        check_room(model, length, more)
    full = min(lengths) == batch.valid.shape[1]
    return replace(batch, labels=None, full=True) if full else left_padded(replace(batch, labels=None))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How far some rows have come: what scores their next tokens, where these will stand, and what was read before.

    It is `full` where all that was read are tokens of its row.
    """

    scores: Float[Tensor, "B V"]
    places: Int[Tensor, "B 1 *A"]
    cache: Cache
    full: bool


def read(model: Writer, prompt: Batch, new: Sequence[int], cache: Cache | None = None) -> Rows:
    """Rows that have read prompts that are `ready`, with room until the first of them has all of its `new` tokens."""
    rows, length = prompt.input_ids.shape
    cache = cache or model.language.cache(rows, length + min(new) - 1)
    scores = model(prompt, cache=cache, keep="last").logits[:, -1]
    places = cache.tokens[:, None] if prompt.positions is None else prompt.positions[:, -1:] + 1
    if cache.shift is not None:  # what a budget left out still has its places
        places = places + cache.shift.view(-1, *[1] * (places.ndim - 1))
    return Rows(scores=scores, places=places, cache=cache, full=prompt.full)


def reached(rows: Rows) -> list[int]:
    """How many places of the context each row takes by now, those of what a budget left out among them."""
    tokens, shift = rows.cache.tokens, rows.cache.shift
    return (tokens if shift is None else tokens + shift).tolist()


def go_on(model: Writer, rows: Rows, chosen: Int[Tensor, " B"]) -> Rows:
    """The rows after one more token each; they share their cache with those before, which cannot go on again."""
    token = chosen[:, None]
    everywhere = torch.ones_like(token, dtype=torch.bool)
    batch = Batch(
        input_ids=token,
        valid=everywhere,
        prompt=~everywhere,
        image_slot=torch.full_like(token, -1),
        positions=rows.places,
        full=rows.full,
    )
    scores = model(batch, cache=rows.cache, keep="last").logits[:, -1]
    return replace(rows, scores=scores, places=rows.places + 1)


def join(parts: Sequence[tuple[Rows, Sequence[int]]], *, room: int) -> Rows:
    """These rows of some, one under the other, with room for so many tokens more; those that they are of stay.

    Each goes on as it would have by itself. Their caches must be a `KVCache`.
    """
    some, caches = [(rows, torch.tensor(at, device=rows.scores.device)) for rows, at in parts], []
    for rows, at in some:
        assert isinstance(rows.cache, KVCache)
        caches.append((rows.cache, at))
    cache = cache_of(caches, room=room)
    return Rows(
        scores=torch.cat([rows.scores[at] for rows, at in some]),
        places=torch.cat([rows.places[at] for rows, at in some]),
        cache=cache,
        full=int(cache.tokens.min()) == cache.filled,
    )


@torch.no_grad()
def _steps(
    model: Writer, batch: Batch, cache: Cache | None, steps: int, stops: Tensor, pad_id: int, sampling: Sampling
) -> Iterator[Int[Tensor, " B"]]:
    prompt = torch.where(batch.valid, batch.input_ids, batch.input_ids[:, -1:])  # padding is nobody's word
    new = prompt[:, :0]
    running = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    rows = read(model, batch, [steps] * len(prompt), cache)
    if rows.cache.shift is not None:
        for length in reached(rows):
            check_room(model, length, steps)
    for step in range(steps):
        chosen = torch.where(running, sampling(rows.scores, prompt, new), pad_id)
        yield chosen
        running &= ~torch.isin(chosen, stops)
        if step + 1 == steps or not running.any():
            return
        new = torch.cat([new, chosen[:, None]], dim=1)
        rows = go_on(model, rows, chosen)
