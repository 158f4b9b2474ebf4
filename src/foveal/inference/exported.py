"""A model whose heavy parts are graphs: another engine sees, reads and scores, and the rest is put together as ever."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.parsing import from_json
from foveal.core.types import Batch, Layout, Patches, Pixels, Stream, VisualTokens
from foveal.inference.pieces import deeper, lying, pieces, read, sizes
from foveal.inference.sessions import check_engine, opened, write
from foveal.inference.tracing import Graph
from foveal.models.assembly import empty
from foveal.models.budget import unspent
from foveal.weights.names import load_strict

MANIFEST, FORMAT = "graphs.json", 1


@dataclass(frozen=True, kw_only=True)
class Way:
    """A graph for one size, and where the tokens of an image lie of which it tells."""

    graph: Graph
    laid: Mapping[str, Tensor]


Ways = Mapping[str, Way]  # by size


class _Held(nn.Module):
    """What stands with graphs: it stays in float32 on the processor, as they do."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *given: Any, **named: Any) -> Any:
        like = fn(torch.zeros(1))
        if like.dtype != torch.float32 or like.device.type != "cpu":
            raise InputError(
                f"an exported model computes in float32 on the processor, and does not go to {like.dtype} on "
                f"{like.device}; load what it was exported from, and move that"
            )
        return super()._apply(fn, *given, **named)


class ExportedEncoder(_Held):
    """The vision encoder as a graph for each size of a tile, or of an image of patches; it plans as the `bare` one."""

    def __init__(self, bare: Any, ways: Ways) -> None:
        super().__init__()
        self.width, self.level_widths = bare.width, getattr(bare, "level_widths", ())
        self.reads_frames, self.on_grid = getattr(bare, "reads_frames", False), getattr(bare, "on_grid", True)
        self._bare, self._ways = (bare,), ways  # no part of this one

    def plan(self, *given: Any, **named: Any) -> Layout:
        """The layout of the tokens for images of these sizes."""
        return self._bare[0].plan(*given, **named)

    def forward(self, pixels: Pixels | Patches) -> VisualTokens:
        """One tile after the other; raises InputError for one of another size than those of the graphs."""
        if isinstance(pixels, Pixels) and pixels.frames is not None:
            raise InputError("the frames of a video do not go through the graphs of an exported model; give pictures")
        if isinstance(pixels, Patches):
            layout = pixels.layout
            parts = pixels.values.split([times * rows * columns for times, rows, columns in pixels.grids])
        else:
            layout = self.plan([tuple(pixels.values.shape[-2:])] * len(pixels.values))
            parts = pixels.values.split(1)
        return _joined(self._ways, "values", parts, sizes(pixels), layout)


class ExportedConnector(_Held):
    """A connector as a graph for each number of tokens of an image; it plans as the `bare` one does."""

    def __init__(self, bare: Any, ways: Ways) -> None:
        super().__init__()
        self._bare, self._ways = (bare,), ways
        if hasattr(bare, "latents"):
            self.latents = bare.latents

    def plan(self, layout: Layout) -> Layout:
        """The layout after the connector."""
        return self._bare[0].plan(layout)

    def said(self, visual: VisualTokens) -> Tensor:
        """Raises InputError: the queries of a graph look as they like."""
        raise InputError("a budget leads the connector's queries, and no one leads those of a graph; leave it out")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """One image after the other; raises InputError for another number of tokens than those of the graphs."""
        parts = visual.features.split(visual.layout.counts)
        made = _joined(self._ways, "seen", parts, lying(visual.layout), self.plan(visual.layout))
        return replace(made, cuts=visual.cuts)


class ExportedFusion(_Held):
    """A fusion that does nothing more between the layers, which are one graph with it."""

    def __init__(self, bare: Any) -> None:
        super().__init__()
        self.bare = bare

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__["_modules"]
        return own[name] if name in own else getattr(own["bare"], name)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """The stream as it is."""
        return stream


class ExportedLanguage(_Held):
    """A language model whose layers are one graph with its last norm; it opens a batch as the `bare` one does."""

    def __init__(self, bare: Any, layers: nn.Module) -> None:
        super().__init__()
        self.bare, self.layers = bare, nn.ModuleList([layers])
        bare.layers = nn.ModuleList()
        if "norm" in bare._modules:
            bare.norm = nn.Identity()

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__["_modules"]
        return own[name] if name in own else getattr(own["bare"], name)

    def norm(self, hidden: Tensor) -> Tensor:
        """The states as they are."""
        return hidden


class ExportedLayers(_Held):
    """All layers and the last norm as one graph over a stream; the cache keeps what it says of new tokens."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._graph = graph
        self._held = {name: shape for name, shape in shapes.items() if name.startswith(("key", "value"))}
        self._levels = {name: shape[1] for name, shape in shapes.items() if name.startswith("level")}

    def forward(self, stream: Stream) -> Stream:
        """The normed states."""
        if stream.ahead is not None:
            raise InputError("a strategy that acts within the layers finds none in an exported model; take another one")
        given, cache, depth = read(stream), stream.cache, len(self._held) // 2
        given |= {name: torch.zeros(2, width) for name, width in self._levels.items() if name not in given}
        for layer in range(depth):
            for kind, held in zip(("key", "value"), self._before(stream, layer), strict=True):
                given[f"{kind}{layer}"] = held
        made = self._graph(given)
        if cache is not None:
            for layer in range(depth):
                cache.update(layer, made[f"new_key{layer}"], made[f"new_value{layer}"])
        return stream.with_hidden(made["states"])

    def _before(self, stream: Stream, layer: int) -> tuple[Tensor, Tensor]:
        if stream.cache is not None:
            return stream.cache.held(layer)  # type: ignore[attr-defined]
        _, heads, _, width = self._held[f"key{layer}"]
        none = torch.zeros(len(stream.hidden), heads, 0, width)
        return none, none


class ExportedHead(_Held):
    """The head as a graph over states."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    @property
    def by(self) -> str:
        """Who computes it."""
        return self._graph.by

    def forward(self, hidden: Tensor) -> Tensor:
        """Score every word."""
        return self._graph({"hidden": hidden.flatten(0, -2)})["logits"].unflatten(0, hidden.shape[:-1])


def _joined(ways: Ways, name: str, parts: Sequence[Tensor], keys: Sequence[str], layout: Layout) -> VisualTokens:
    """What graphs say of one image after the other, as visual tokens; marks are the same for all."""
    for key in keys:
        if key not in ways:
            raise InputError(
                f"an image of {key}, and this model was exported for {', '.join(ways)}; give pictures of such a size, "
                "or export it with a picture of this one too"
            )
    said = [ways[key].graph({name: part}) for key, part in zip(keys, parts, strict=True)]

    def all_of(name: str) -> Tensor:
        return torch.cat([one[name] for one in said])

    levels = tuple(all_of(name) for name in said[0] if name.startswith("level"))
    made = VisualTokens.on_layout(all_of("features"), layout, levels)
    more = {name: all_of(name) for name in ("codes", "classes") if name in said[0]}
    more |= {"marks": said[0]["marks"]} if "marks" in said[0] else {}
    laid = {name: torch.cat([ways[key].laid[name] for key in keys]) for name in ("boxes", "mass")}
    return replace(made, **laid, **more)


def export(loaded: Any, batches: Sequence[Batch], folder: Path, *, engine: str) -> dict[str, Any]:
    """Write a loaded model as a run whose heavy parts are graphs; returns what is told of these.

    Pictures of other sizes than those that the batches bring are not read by them. Takes the errors of `pieces`.
    """
    graphs = {}
    with torch.no_grad():
        for name, piece in pieces(unspent(loaded.model), batches):
            written = write(piece, name, engine=engine, folder=folder)
            given = {one: list(value.shape) for one, value in piece.given.items()}
            free = {one: {str(axis): told for axis, told in axes.items()} for one, axes in piece.free.items()}
            laid = {what: part.tolist() for what, part in piece.laid.items()}
            graphs[name] = {**written, "given": given, "gives": [*piece.gives], "free": free}
            graphs[name] |= {"key": piece.key, "laid": laid} if laid else {}
    told = {"format": FORMAT, "engine": engine, "graphs": graphs}
    _write_rest(loaded, told, folder)
    (folder / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")
    return told


def _write_rest(loaded: Any, told: Mapping[str, Any], folder: Path) -> None:
    """The run without the weights that are in graphs: its config, its processor, words, and what stands between."""
    whole = loaded.model
    rest, state = empty(whole.config), whole.state_dict()
    replaced(rest, told, ready=lambda name: Graph(run=dict, by="none"))
    load_strict(rest, {name: state[name.replace(".bare.", ".")] for name in rest.state_dict()}, str(folder))
    view = copy.copy(loaded)  # whose model is another one
    view.__dict__["_modules"] = {**loaded._modules, "model": rest}
    if hasattr(view, "external"):
        view.external = {}
    view.save(folder)


def matches(directory: Path) -> bool:
    """Whether a directory holds an exported model."""
    return (directory / MANIFEST).is_file()


def put_in(model: Any, directory: Path) -> None:
    """Graphs in the place of a model's heavy parts; raises InputError for files that are missing or spoiled."""
    told = described(directory)
    engine, graphs = told["engine"], told["graphs"]
    check_engine(engine, writes=False)

    def ready(name: str) -> Graph:
        return opened(directory / graphs[name]["file"], graphs[name], engine=engine)

    replaced(model, told, ready=ready)


def replaced(model: Any, told: Mapping[str, Any], *, ready: Callable[[str], Graph]) -> None:
    """The parts of a model as graphs that `ready` opens."""
    graphs = told["graphs"]

    def ways(kind: str) -> Ways:
        mine = {name: graph for name, graph in graphs.items() if name.rstrip("0123456789") == kind}
        laid = {name: {what: torch.tensor(part) for what, part in one["laid"].items()} for name, one in mine.items()}
        return {one["key"]: Way(graph=ready(name), laid=laid[name]) for name, one in mine.items()}

    if found := ways("vision"):
        model.vision = ExportedEncoder(model.vision, found)
    if found := ways("connector"):
        model.connector = ExportedConnector(model.connector, found)
    if further := deeper(model):
        model.deeper = nn.ModuleList(ExportedConnector(part, ways(f"deeper{i}_")) for i, part in enumerate(further))
    model.fusion, model.head = ExportedFusion(model.fusion), ExportedHead(ready("head"))
    shapes = {name: tuple(shape) for name, shape in graphs["layers"]["given"].items()}
    model.language = ExportedLanguage(model.language, ExportedLayers(ready("layers"), shapes))


def described(directory: Path) -> dict[str, Any]:
    """What is told of a directory's graphs; raises InputError for a file of another kind or format."""
    path = directory / MANIFEST
    try:
        told = from_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}; export the model anew") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("graphs"), dict):
        raise InputError(f"{path} describes no graphs that this Foveal reads; export the model anew")
    return told


def sealed(model: nn.Module) -> None:
    """Let no one write a model's weights who would write none of those in its graphs."""
    model.register_state_dict_pre_hook(_refuse)


def _refuse(*_: Any) -> None:
    raise InputError("an exported model is not written anew; copy its directory, or save what it was exported from")
