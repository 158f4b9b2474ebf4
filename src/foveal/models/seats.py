"""Where who spends a budget acts: before the encoder, behind the connector, between the layers of the language model.

A strategy has the seats that it has methods for; at the others nothing happens.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Plan, in_line
from foveal.core.outside import known_as
from foveal.core.types import Cut, Gaze, Grid, Layout, Patches, Pixels, Query, Stream, VisualTokens
from foveal.models.promised import as_planned
from foveal.relevance.pricing import Terms
from foveal.relevance.spending import covering, undrawn
from foveal.relevance.strategies.foveal import Foveal

T = TypeVar("T")


def needs(spender: Any) -> tuple[str, ...]:
    """What the strategy asks of the encoder beside its tokens."""
    return getattr(spender, "needs", ())


def steered(spender: Any, connector: Any, fusion: Any) -> bool:
    """Whether any of these hears what is asked."""
    heard = getattr(spender, "steered", False) or getattr(connector, "steered", False)
    return bool(heard or getattr(fusion, "reads_relevance", False))


def acts_before(spender: Any) -> bool:
    """Whether it changes what is encoded."""
    return hasattr(spender, "before")


def acts_within(spender: Any) -> bool:
    """Whether tokens leave in the language model, where what follows an image changes how it is read."""
    return hasattr(spender, "at_layer")


def sizes(spender: Any, given: Sequence[Grid | Cut], plan: Plan) -> Sequence[Grid | Cut]:
    """The sizes at which images of these are encoded."""
    return spender.sizes(given, plan) if acts_before(spender) else given


def before(spender: Any, pixels: Pixels | Patches | VisualTokens, plan: Plan) -> Pixels | Patches | VisualTokens:
    """What is encoded; raises InputError where it is encoded already, and would have to be otherwise."""
    if not acts_before(spender):
        return pixels
    if isinstance(pixels, VisualTokens):
        raise InputError(
            f"strategy {known_as(spender)!r} changes what is encoded, and the batch brings features; give it pictures"
        )
    return spender.before(pixels, plan)


def between(spender: Any, visual: VisualTokens, query: Query) -> VisualTokens:
    """What is left between connector and text."""
    if spender is None:
        return visual
    return as_planned("strategy", spender, spender.between(visual, query), spender.plan(visual.layout))


def left(spender: Any, visual: VisualTokens, query: Query, terms: Terms | None) -> VisualTokens:
    """What is left between connector and text, by a budget or by the terms."""
    return between(spender, visual, query) if terms is None else spender.priced(visual, query, terms)


def valued(fusion: Any, spender: Any, visual: VisualTokens | None, query: Callable[[], Query]) -> VisualTokens | None:
    """Tokens that say what they are worth to the question, where the fusion chooses by that and nobody has said it.

    It is what the model's own allocator learned to see, where that is ours, else what ours sees untaught.
    """
    if visual is None or visual.relevance is not None or not getattr(fusion, "reads_relevance", False):
        return visual
    judge = spender if hasattr(spender, "worth") else _untaught(visual.features.device)
    with torch.no_grad():  # what is chosen by it is chosen, and nothing learns from that
        return replace(visual, relevance=judge.worth(visual, query()))


@lru_cache(maxsize=4)
def _untaught(device: torch.device) -> Foveal:
    with torch.inference_mode(False), undrawn():  # it is asked outside of that too, and draws nothing of a run's stream
        return Foveal().to(device)


def cover_of(spender: Any, cover: float) -> float:
    """The share of what a view is worth that tiles are to hold; raises InputError for none, and where all are read."""
    if not hasattr(spender, "cover"):
        raise InputError(
            f"strategy {known_as(spender)!r} reads all tiles, and a cover of {cover:g} is set; leave it out"
        )
    return covering(cover)


def unpriced(spender: Any, connector: Any) -> str | None:
    """Why a price or a total cannot be spent, in a line; None: it can."""
    if not hasattr(spender, "priced"):
        return f"strategy {known_as(spender)!r} tells no token's gain, and a price or a total needs it; take foveal"
    if latents := getattr(connector, "latents", 0):
        return (
            f"a price or a total is spent on a grid, and the {latents} queries of connector {type(connector).__name__} "
            "bring none; give a budget"
        )
    return None


def looking(spender: Any, connector: Any) -> int | None:
    """How many of the connector's queries the budget leaves and leads; None: it has none, or all look as they like."""
    latents = getattr(connector, "latents", 0)
    return spender.budget if hasattr(spender, "gaze") and spender.budget < latents else None


def connected(spender: Any, connector: Any, layout: Layout) -> Layout:
    """What the connector brings of whole images, with as many queries as the budget leaves."""
    count, made = looking(spender, connector), connector.plan(layout)
    return made if count is None else replace(made, counts=(count,) * len(made.counts))


def gaze(spender: Any, connector: Any, visual: VisualTokens, query: Callable[[], Query]) -> Gaze | None:
    """How the connector's queries look at whole images; None: as they like."""
    count = looking(spender, connector) if visual.cuts is None else None
    return None if count is None else spender.gaze(visual, connector.said(visual), query(), count)


def entered(spender: Any, stream: Stream, visual: VisualTokens | None) -> Stream:
    """The stream before layer 0, which knows its visual tokens where some of them leave."""
    if not acts_within(spender) or visual is None or visual.layout.total == 0:
        return stream
    return replace(stream, visual=visual)


def at_layer(spender: Any, index: int, stream: Stream, *, ahead: nn.Module, depth: int) -> Stream:
    """The stream before a layer, that of those tokens which are left."""
    return spender.at_layer(index, replace(stream, ahead=ahead), depth) if acts_within(spender) else stream


def fit(spender: T, *, vision: Any, connector: Any, fusion: Any, language: Any) -> T:
    """The strategy itself; raises InputError where this model lacks what it needs."""
    reason = refusal(spender, vision=vision, connector=connector, fusion=fusion, language=language)
    if reason is not None:
        raise InputError(reason)
    return spender


def refusal(spender: Any, *, vision: Any, connector: Any, fusion: Any, language: Any) -> str | None:
    """What this model lacks that the strategy needs, in a line; None: nothing."""
    name = known_as(spender)
    if "attention" in needs(spender) and vision is not None and not hasattr(vision, "attended"):
        return (
            f"strategy {name!r} needs the encoder's attention, and {type(vision).__name__} has none to tell; take an "
            "encoder that has (vit), or a strategy that needs none"
        )
    if acts_before(spender) and vision is None:
        return f"strategy {name!r} changes what is encoded, and this model reads features made elsewhere; take another"
    if (latents := getattr(connector, "latents", 0)) and not hasattr(spender, "gaze"):
        try:
            spender.plan(Layout(counts=(latents,), grids=(None,)))
        except InputError:
            return (
                f"strategy {name!r} cuts a grid, and what the {latents} queries of connector "
                f"{type(connector).__name__} bring lies on none; take foveal, which leaves the first of them"
            )
    width = getattr(getattr(language, "embedding", None), "embedding_dim", None)
    if (hears := getattr(spender, "hears", 0)) and width is not None and hears != width:
        return f"strategy {name!r} hears words of width {hears}, and this model's have {width}; give that"
    return _within(spender, name, fusion, language) if acts_within(spender) else None


def _within(spender: Any, name: str, fusion: Any, language: Any) -> str | None:
    if not in_line(fusion) or not fusion.causal:
        return (
            f"strategy {name!r} lets visual tokens leave in the language model, and with fusion "
            f"{type(fusion).__name__} they do not stand in a text that is written, or leave it already; take another"
        )
    if getattr(language, "rope", name) is None or not all(hasattr(layer, "shares") for layer in language.layers):
        return (
            f"strategy {name!r} asks the layers of the language model for their attention and leaves gaps in its "
            f"text, and {type(language).__name__} counts distances along it or tells none; take another"
        )
    try:
        spender.cuts(language.depth)
    except InputError as error:
        return str(error)
    return None


def by_layer(spender: Any, layout: Layout, depth: int) -> tuple[tuple[int, ...], ...] | None:
    """How many tokens of each image every layer sees; None: all."""
    return spender.by_layer(layout, depth) if acts_within(spender) else None
