"""One mask rule; integers choose the pattern."""

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Sees = Literal["own", "earlier", "all"]  # what words beside queries see


def attention_mask(
    valid: Bool[Tensor, "B K"],
    *,
    queries: int,
    order: Int[Tensor, "B K"] | None = None,
    segment: Int[Tensor, "B K"] | None = None,
    branch: Int[Tensor, "B K"] | None = None,
    window: int | None = None,
) -> Bool[Tensor, "B 1 L K"]:
    """True where one of the last `queries` tokens may look at a key.

    A key is seen when it is valid, its `order` is not greater than the query's (default 0 1 2 3: causal; all equal:
    bidirectional; 0 0 0 1 2: a bidirectional prefix), it lies in the query's `segment`, its `branch` is 0 (the trunk)
    or the query's own, and it is among the `window` places up to the query's (None: all). A token that may look at
    none sees itself, so that a row of padding stays finite; padding that may look at others is read as references read
    it, without itself.
    """
    length = valid.shape[1]
    place = torch.arange(length, device=valid.device)
    order = place.expand_as(valid) if order is None else order
    seen = in_conversation(valid[:, None] & (order[:, None] <= order[:, -queries:, None]), segment, branch)
    if window is not None:
        seen &= place > place[-queries:, None] - window
    blind = ~seen.any(-1, keepdim=True)
    return (seen | (blind & (place == place[-queries:, None])))[:, None]


def in_conversation(
    seen: Bool[Tensor, "B L M"],
    segment: Int[Tensor, "B K"] | None,
    branch: Int[Tensor, "B K"] | None,
    *,
    keys: Int[Tensor, "B M"] | None = None,
    queries: Int[Tensor, "B L"] | None = None,
) -> Bool[Tensor, "B L M"]:
    """What of the places `keys` those at `queries` see in their own segment, in its trunk or own branch.

    None: keys are all places, queries the last L.
    """
    for part, trunk in ((segment, False), (branch, True)):
        if part is not None:
            key, query = (part if at is None else part.gather(1, at) for at in (keys, queries))
            same = key[:, None] == query[:, -seen.shape[1] :, None]
            seen = seen & (same | (key[:, None] == 0) if trunk else same)
    return seen


def beside_queries(valid: Bool[Tensor, "B L"], *, queries: int, sees: Sees) -> Bool[Tensor, "B 1 N N"]:
    """Who sees whom where `queries` stand before each row's words (BLIP-2, 2301.12597).

    `own`: queries see queries, words see words. `earlier`: words see the queries and themselves up to their own place,
    queries see queries. `all`: all see all.
    """
    rows, words = valid.shape
    place = torch.arange(1 - queries, words + 1, device=valid.device).clamp(min=0).expand(rows, -1)
    both = torch.cat([valid.new_ones(rows, queries), valid], dim=1)
    return attention_mask(
        both,
        queries=queries + words,
        order=place if sees == "earlier" else torch.zeros_like(place),
        segment=(place > 0).long() if sees == "own" else None,
    )
