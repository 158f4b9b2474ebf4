"""The parts of a model that writes, as functions of plain tensors that can be traced into graphs.

Four kinds: what the encoder says of one tile, what the connector makes of that, all layers over embedded words, and
the head. What stands between them (who sees whom, where sight stands in the text, what a budget leaves) are a few
operations on whole numbers, and stays in Python.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import in_line
from foveal.core.outside import known_as
from foveal.core.types import Batch, Layout, Patches, Pixels, Stream, VisualTokens

_TOLD = ("features", "marks", "codes", "classes")  # what visual tokens say of what is seen
_LAID = ("layout", "image", "frame", "boxes", "mass", "levels", "cuts")  # and of how they lie, which no pixel changes
_READ = ("hidden", "positions", "slots", "valid", "prompt", "owner", "cache", "levels", "mask", "rotary")
_ROWS, _WORDS, _PAST = 2, 5, 3  # of an example with more than one of each: one of a kind would stay one


Given = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part to be traced: a function of what it is `given`, by name; what it gives, and which axes have any length."""

    part: nn.Module
    given: Given
    gives: tuple[str, ...]
    free: dict[str, dict[int, str]]
    key: str = ""  # of what size, where a part has a graph for each
    laid: dict[str, Tensor] = field(default_factory=dict)  # where visual tokens lie and what they stand for


def told(visual: VisualTokens) -> dict[str, Tensor]:
    """What visual tokens say, by name; raises InputError where they say what no graph keeps."""
    others = [one.name for one in fields(visual) if one.name not in (*_TOLD, *_LAID)]
    if more := [name for name in others if getattr(visual, name) is not None and len(getattr(visual, name))]:
        raise InputError(f"visual tokens with {' and '.join(more)} do not go through a graph; export another model")
    said = {name: value for name in _TOLD if (value := getattr(visual, name)) is not None}
    return said | {f"level{i}": level for i, level in enumerate(visual.levels)}


class Encoder(nn.Module):
    """The vision encoder over one tile, or over the patches of one image."""

    def __init__(self, vision: nn.Module, pixels: Pixels | Patches) -> None:
        super().__init__()
        self.vision, self.pixels = vision, pixels

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """What it says of pixels of this shape."""
        return tuple(told(self.vision(replace(self.pixels, values=given["values"]))).values())


class Connector(nn.Module):
    """A connector over what the encoder says of one tile."""

    def __init__(self, connector: nn.Module, visual: VisualTokens) -> None:
        super().__init__()
        self.connector, self.visual = connector, visual

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """What it makes of tokens that lie so."""
        return tuple(told(self.connector(self.visual.with_features(given["seen"]))).values())


class Past:
    """A cache of the keys and values that were given, all of real tokens; the new ones are told and not kept."""

    def __init__(self, held: tuple[Tensor, ...]) -> None:
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self.shift: Tensor | None = None
        self.held = held
        self.new: list[Tensor] = []

    @property
    def tokens(self) -> Tensor:
        """How many tokens of each row were given."""
        return self._real.sum(1)

    @property
    def _real(self) -> Tensor:
        return torch.ones_like(self.held[0][:, 0, :, 0], dtype=torch.bool)

    def extend(self, valid: Tensor) -> Tensor:
        """The validity of all, with the new ones."""
        return torch.cat([self._real, valid], dim=1)

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The earlier ones of a layer with the new ones behind."""
        self.new += [key, value]
        return torch.cat([self.held[2 * layer], key], dim=2), torch.cat([self.held[2 * layer + 1], value], dim=2)

    def thin(self, layer: int, at: Tensor | None, real: Tensor | None, *, length: int) -> Tensor | None:
        """Raises InputError: no token leaves on the way through a graph."""
        raise InputError("tokens leave between the layers, and do not in a graph; export another model")

    def where(self, layer: int) -> Tensor | None:
        """All layers hold the same."""
        return None


class Layers(nn.Module):
    """All layers of the language model, what the fusion does between them, and the last norm."""

    def __init__(self, language: Any, fusion: Any) -> None:
        super().__init__()
        self.language, self.fusion = language, fusion

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """The last states, then the keys and values of the new tokens, layer by layer."""
        past = Past(tuple(given[f"{kind}{i}"] for i in range(self.language.depth) for kind in ("key", "value")))
        stream = Stream(
            hidden=given["hidden"],
            positions=given["slots"],
            slots=given["slots"],
            mask=given["mask"],
            rotary=(given["cosines"], given["sines"]) if "sines" in given else None,
            levels=tuple(level for name, level in given.items() if name.startswith("level")),
            cache=past,
        )
        for index, layer in enumerate(self.language.layers):
            stream = layer(self.fusion.at_layer(index, stream))
        stream = self.fusion.at_layer(self.language.depth, stream)
        return (self.language.norm(stream.hidden), *past.new)


class Head(nn.Module):
    """A head over states, however many."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, given: Given) -> Tensor:
        """The scores of every word."""
        return self.head(given["hidden"])


def read(stream: Stream) -> dict[str, Tensor]:
    """What the layers read of a stream, by name; raises InputError for one of which they read more."""
    more = [one.name for one in fields(stream) if one.name not in _READ and getattr(stream, one.name) is not None]
    if more:
        raise InputError(f"layers that read {' and '.join(more)} do not go through a graph; export another model")
    turns = () if stream.rotary is None else zip(("cosines", "sines"), stream.rotary, strict=True)
    levels = {f"level{i}": level for i, level in enumerate(stream.levels)}
    return {"hidden": stream.hidden, "mask": _mask(stream), "slots": stream.slots, **dict(turns), **levels}


def _mask(stream: Stream) -> Tensor:
    """Who sees whom, also where each token plainly sees all up to its own."""
    if stream.mask is not None:
        return stream.mask
    rows, length = stream.hidden.shape[:2]
    keys = length if stream.cache is None else int(stream.cache.tokens.max())
    return torch.ones(length, keys, dtype=torch.bool).tril(keys - length).expand(rows, 1, -1, -1)


def pieces(model: Any, batches: Sequence[Batch]) -> Iterator[tuple[str, Piece]]:
    """The parts of a model by the names of their graphs, those that see once for each size that the batches bring.

    Takes the errors of `check`, and raises InputError for tiles side by side of several sizes, and for tokens that say
    more than goes through a graph.
    """
    check(model)
    shown = [batch.visual for batch in batches if isinstance(batch.visual, Pixels | Patches)]
    seen = [one for pixels in shown for one in _sizes(pixels)]
    yield from _sight(model, {sizes(one)[0]: one for one in seen})
    yield "layers", _layers(model, batches[0])
    given, free = {"hidden": torch.zeros(_WORDS, model.language.width)}, {"hidden": {0: "words"}}
    yield "head", Piece(part=Head(model.head), given=given, gives=("logits",), free=free)


def check(model: Any) -> None:
    """Raise InputError for a model that keeps sight out of line with its words, or whose connector hears or counts."""
    reason = None
    if not (hasattr(model, "language") and hasattr(getattr(model, "language", None), "cache")):
        reason = "it writes no words token by token"
    elif not in_line(model.fusion) or getattr(model.language, "reads_memory", False):
        reason = f"its fusion, {type(model.fusion).__name__}, keeps sight out of line with the words"
    elif getattr(model.connector, "steered", False) or getattr(model.connector, "counts_images", False):
        reason = f"its connector, {type(model.connector).__name__}, hears the question or counts images"
    elif _spends_within(model):
        reason = f"its own budget is spent by {known_as(model.allocator)!r}, before or in what graphs compute"
    elif getattr(model.vision, "reads_tiles", False):
        reason = f"its encoder, {type(model.vision).__name__}, reads tiles together"
    if reason:
        raise InputError(f"this model does not go through graphs: {reason}; run it as it is")


def _spends_within(model: Any) -> bool:
    """Whether the model's own strategy acts before the encoder, asks it for attention, leads queries, or is within."""
    spender = getattr(model, "_modules", {}).get("allocator")
    acts = any(hasattr(spender, seat) for seat in ("before", "at_layer")) or getattr(spender, "needs", ())
    return bool(acts or (hasattr(spender, "gaze") and hasattr(model.connector, "latents")))


def _sight(model: Any, by_size: Mapping[str, Pixels | Patches]) -> Iterator[tuple[str, Piece]]:
    known: set[str] = set()
    for number, (size, one) in enumerate(by_size.items()):
        suffix, seen = str(number or ""), model.vision(one)
        yield f"vision{suffix}", _fixed(Encoder(model.vision, one), "values", one.values, seen, size)
        if model.connector is None:
            continue
        key, plain = lying(seen.layout)[0], replace(seen, levels=())
        if key in known:  # another size of as many tokens
            continue
        known.add(key)
        parts = [("connector", model.connector, seen.features)]
        further = zip(deeper(model), seen.levels, strict=True)
        parts += [(f"deeper{i}_", part, level) for i, (part, level) in enumerate(further)]
        for name, connector, features in parts:
            visual = plain.with_features(features)
            yield name + suffix, _fixed(Connector(connector, visual), "seen", features, connector(visual), key)


def _sizes(pixels: Pixels | Patches) -> list[Pixels | Patches]:
    """One tile, or the patches of one image, of each size."""
    if isinstance(pixels, Patches):
        parts = pixels.values.split([times * rows * columns for times, rows, columns in pixels.grids])
        alike = {grid: part for grid, part in reversed([*zip(pixels.grids, parts, strict=True)])}
        return [replace(pixels, values=alike[grid], grids=(grid,)) for grid in dict.fromkeys(pixels.grids)]
    if pixels.frames is not None:
        raise InputError("the frames of a video do not go through graphs; export with pictures")
    if pixels.sizes is not None:
        raise InputError(f"tiles of several sizes, {sorted(set(pixels.sizes))}; export with pictures of one tile size")
    return [Pixels.whole(pixels.values[:1])]


def sizes(pixels: Pixels | Patches) -> list[str]:
    """Of what size each tile is, or each image of patches."""
    if isinstance(pixels, Patches):
        return [f"{times} x {rows} x {columns} patches" for times, rows, columns in pixels.grids]
    return ["{} x {} pixels".format(*pixels.values.shape[-2:])] * len(pixels.values)


def lying(layout: Layout) -> list[str]:
    """How many tokens each image has, and on what grid."""
    grids = ("no grid" if grid is None else "{} x {}".format(*grid) for grid in layout.grids)
    return [f"{count} tokens on {grid}" for count, grid in zip(layout.counts, grids, strict=True)]


def deeper(model: Any) -> list[nn.Module]:
    """The connectors of further levels, of which most models have none."""
    return list(getattr(model, "deeper", None) or ())


def _fixed(part: nn.Module, name: str, given: Tensor, made: VisualTokens, key: str) -> Piece:
    laid = {"boxes": made.boxes, "mass": made.mass}
    return Piece(part=part, given={name: given}, gives=tuple(told(made)), free={}, key=key, laid=laid)


def _layers(model: Any, batch: Batch) -> Piece:
    language, visual = model.language, model.see(batch)
    stream = model.fusion.at_input(language.open(model.worded(batch, visual), None), visual)
    rows = {name: _enlarged(name, value) for name, value in read(language.enter(stream)).items()}
    key, value = language.cache(_ROWS, _PAST).held(0)
    held = {
        f"{kind}{i}": like.new_zeros(*like.shape[:2], _PAST, like.shape[3])
        for i in range(language.depth)
        for kind, like in (("key", key), ("value", value))
    }
    axes = {"hidden": {0: "rows", 1: "length"}, "slots": {0: "rows", 1: "length"}}
    axes |= {"mask": {0: "rows", 2: "length", 3: "all"}}
    axes |= {name: {0: "rows", 2: "length"} for name in ("cosines", "sines")}
    axes |= {name: {0: "rows", 2: "past"} for name in held}
    given = rows | held
    free = {name: axes.get(name, {0: "tokens"}) for name in given}  # levels are of visual tokens
    return Piece(
        part=Layers(language, model.fusion), given=given, gives=("states", *(f"new_{name}" for name in held)), free=free
    )


def _enlarged(name: str, value: Tensor) -> Tensor:
    """An example of several rows, after earlier tokens that it sees all of."""
    if name.startswith("level"):
        return value
    value = value.expand(_ROWS, *value.shape[1:]).contiguous()
    return F.pad(value, (_PAST, 0), value=1) if name == "mask" else value
