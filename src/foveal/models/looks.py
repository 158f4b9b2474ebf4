"""Where a model of two streams looks: how much each token takes of each, layer by layer (ViLBERT, 1908.02265)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Stream
from foveal.layers.meeting import places_of
from foveal.models.masked import Masked
from foveal.models.parts import flow


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Shares by head, one tensor a layer or meeting; what a token looks at adds up to 1, padding looks at nothing.

    H heads look at words, G at sight, N at the other stream. Words are those of the batch's places `[B L]`. Sight is
    each row's visual tokens in order, after the image as a whole where the fusion makes one. `to_sight` are words that
    look at sight, `to_words` sight that looks at words.
    """

    words: tuple[Float[Tensor, "B H L L"], ...]
    sight: tuple[Float[Tensor, "B G M M"], ...]
    to_sight: tuple[Float[Tensor, "B N L M"], ...]
    to_words: tuple[Float[Tensor, "B N M L"], ...]


@torch.no_grad()
def looks(model: Masked, batch: Batch) -> Looks:
    """All maps of one run over the batch; they are made here alone, so that a run without them pays nothing.

    Raises InputError for a model of another fusion.
    """
    fusion: Any = model.fusion
    if not hasattr(fusion, "to_sight"):
        raise InputError(f"no maps of what {type(fusion).__name__} looks at; ask a model of 'co_attention'")
    kinds = {"words": model.language.layers, "sight": fusion.sight, "to_sight": fusion.to_sight,
             "to_words": fusion.to_words}  # fmt: skip
    visual = model.see(batch)
    stream = fusion.at_input(model.language.open(batch), visual)
    with recorded({name: [part.attention for part in parts] for name, parts in kinds.items()}) as kept:
        flow(stream, language=model.language, fusion=fusion)
    return _placed(kept, stream, batch)


@contextmanager
def recorded(wanted: dict[str, list[nn.Module]]) -> Iterator[dict[str, list[Tensor]]]:
    """The maps of these attentions, out of what they are called with while the context is open."""
    kept: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def keep(name: str) -> Any:
        return lambda part, given, named: kept[name].append(part.weights(*given, **named))

    hooks = [
        part.register_forward_pre_hook(keep(name), with_kwargs=True) for name, parts in wanted.items() for part in parts
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _placed(kept: dict[str, list[Tensor]], stream: Stream, batch: Batch) -> Looks:
    """The maps at the places of the batch: the stream holds the valid words of each row alone."""
    valid = batch.valid & (batch.image_slot < 0)
    assert stream.valid is not None
    own = (
        places_of(valid) if stream.whole is not None else torch.arange(valid.shape[1]).expand_as(valid).to(valid.device)
    )
    shown = stream.valid[:, :0] if stream.memory_mask is None else stream.memory_mask[:, 0, 0]

    def told(name: str, looks: Bool[Tensor, "B looking"], sees: Bool[Tensor, "B seen"]) -> Iterable[Tensor]:
        for share in kept[name]:
            share = share * looks[:, None, :, None] * sees.any(1)[:, None, None, None]
            share = share if looks is shown else _spread(share, own, valid.shape[1], 2)
            yield share if sees is shown else _spread(share, own, valid.shape[1], 3)

    words = stream.valid
    return Looks(
        words=tuple(told("words", words, words)),
        sight=tuple(told("sight", shown, shown)),
        to_sight=tuple(told("to_sight", words, shown)),
        to_words=tuple(told("to_words", shown, words)),
    )


def _spread(share: Float[Tensor, "B H Q K"], places: Int[Tensor, "B W"], length: int, axis: int) -> Tensor:
    """An axis of so many places, with the share at those that it has."""
    index = places[:, None, :, None] if axis == 2 else places[:, None, None, :]
    size = list(share.shape)
    size[axis] = length
    return share.new_zeros(size).scatter(axis, index.expand_as(share), share)
