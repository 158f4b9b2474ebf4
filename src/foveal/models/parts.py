"""What every assembly has in common: how it sees, and how a stream flows through the layers."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator, Connector, Fusion, LanguageModel, VisionEncoder
from foveal.core.outside import known_as
from foveal.core.types import (
    Batch,
    Cache,
    Cut,
    Gaze,
    Grid,
    Layout,
    Patches,
    Pixels,
    Query,
    Stream,
    VisualTokens,
    visible,
)
from foveal.layers.albums import taken, together
from foveal.layers.mosaic import Joined
from foveal.layers.regions import pooled
from foveal.layers.relaid import first, relaid, stretched
from foveal.layers.speaking import alone
from foveal.layers.thinning import placed, thin
from foveal.models import seats
from foveal.models.promised import as_planned, looking
from foveal.models.tiles import choosable, planned, stood
from foveal.relevance.pricing import Terms


class Sight(nn.Module):
    """An assembly's vision encoder and connector; both may be missing.

    Codes of an encoder that a fusion reads as they are need no connector. What the connector says of the tiles of an
    image is `joined`, unless the encoder itself `reads_tiles` of an image together.
    """

    vision: VisionEncoder | None
    connector: Connector | None
    deeper: nn.ModuleList | None  # a connector for each further level of the encoder; most have none
    allocator: Allocator | None  # who spends a budget of visual tokens; most have none, and keep all
    joined: Joined  # those that see images in one tile alone have none
    fusion: Fusion
    language: LanguageModel

    @property
    def layers(self) -> Iterable[nn.Module]:
        """What one state after the other goes through: those of the language model."""
        return self.language.layers

    def worded(self, batch: Batch, visual: VisualTokens | None) -> Batch:
        """The batch with the words that its images are, where the fusion makes such of them."""
        at_words = getattr(self.fusion, "at_words", None)
        return batch if at_words is None else at_words(batch, visual)

    def placed(self, batch: Batch, visual: VisualTokens | None, cache: Cache | None = None) -> Batch:
        """The batch with its tokens where they would stand if none had left, where a text holds visual tokens."""
        if hasattr(self.fusion, "placed"):
            return batch
        made = stretched(batch, visual, cache)
        if made is not batch and made.positions is not None and not torch.compiler.is_compiling():
            last, context = int(made.positions.max()) + 1, self.language.context
            if last > context:
                raise InputError(
                    f"what a budget leaves keeps its place among {last} tokens, and the context has {context}; ask in "
                    "fewer words, with fewer or smaller pictures"
                )
        return made

    def see(self, batch: Batch) -> VisualTokens | None:
        """The batch's visual tokens in language width, as many as it was laid out for."""
        made = self.whole(batch) if batch.seen is not None or self._spender is None else self._kept(batch)
        return seats.valued(self.fusion, self._spender, made, lambda: self.query(batch))

    def _kept(self, batch: Batch) -> VisualTokens | None:
        """What the budget leaves."""
        assert self._spender is not None
        made, before = choosable(self, batch, self._spender)
        return made if made is None else stood(seats.between(self._spender, made, self.query(batch)), before)

    def spent(
        self,
        batch: Batch,
        tiled: VisualTokens | None = None,
        budget: int | Terms | None = None,
        *,
        cover: float | None = None,
    ) -> Batch:
        """A batch laid out for all tokens, seen, cut, and laid out anew: no places for tokens that are not left.

        What is `tiled` already is not looked at again. What is spent is the allocator's own budget, another, or what
        images are worth by terms; tiles `cover` another share than its own. Raises InputError for a model without an
        allocator, and for a cover that it knows nothing of; takes the errors of `left`.
        """
        if self._spender is None:
            raise InputError("this model spends no budget of visual tokens; give it a model.allocator")
        if budget is not None and (seats.acts_before(self._spender) or seats.acts_within(self._spender)):
            raise InputError(
                f"strategy {known_as(self._spender)!r} does not act behind the connector, and its budget cannot be "
                "drawn anew for a batch; train with one that does, such as 'foveal'"
            )
        spender: Any = copy.copy(self._spender)  # another budget for the same weights
        terms = budget if isinstance(budget, Terms) else None
        spender.budget = spender.budget if budget is None else budget if terms is None else terms.fewest
        if cover is not None:
            spender.cover = seats.cover_of(spender, cover)
        made, before = choosable(self, batch, spender, tiled, laid_for=getattr(self.connector, "latents", None))
        if made is None:
            return batch
        left = stood(seats.left(spender, made, self.query(batch), terms), before)
        placed = getattr(self.fusion, "placed", lambda layout: layout)
        return relaid(batch, before=placed(before), after=placed(left.layout), seen=left)

    def whole(self, batch: Batch) -> VisualTokens | None:
        """The same before a budget is spent."""
        return self.mosaic(self.tiled(batch))

    def mosaic(self, tiled: VisualTokens | None) -> VisualTokens | None:
        """Images put together again out of their tiles, where they are cut."""
        return tiled if tiled is None or tiled.cuts is None else self._join()(tiled, tiled.cuts)

    def tiled(self, batch: Batch, spender: Allocator | None = None, *, laid: int | None = None) -> VisualTokens | None:
        """Visual tokens behind the connector, tile by tile; one with a `query` hears what the batch asks.

        Where queries look at whole images, the `spender` names fewer of them and leads them, and the batch is `laid`
        out for so many tokens of each image (None: for as many as come).
        """
        if batch.seen is not None:
            return visible(batch.seen)
        seen = self.look(batch)
        if seen is None or self.connector is None:
            return seen
        if getattr(self.connector, "counts_images", False):
            both = (batch.owner, batch.owner if batch.conversation is None else batch.conversation)
            alike = torch.stack([one[:, None] == one for one in both]).all(0)  # images of one row and conversation
            before = alike.tril(-1).sum(1)
            image = seen.image if seen.cuts is None else _owners(seen.cuts).to(seen.image.device)[seen.image]
            seen = replace(seen, number=before[image])
        if hasattr(self.connector, "query") and seen.cuts is not None:
            raise InputError("a connector that hears the question sees whole images; leave processor.image.tiling out")
        gaze = seats.gaze(spender, self.connector, seen, lambda: self.query(batch))
        width = self.joined.width if "joined" in self._modules else None
        connected = partial(_connected, batch=batch, width=width, gaze=gaze, laid=laid)
        made = replace(connected(self.connector, seen), cuts=seen.cuts)  # some connectors make tokens anew
        made = made if gaze is None else replace(made, looked=gaze.looked)
        return replace(made, levels=self._deeper(seen, made, connected)) if "deeper" in self._modules else made

    @property
    def _spender(self) -> Allocator | None:
        return self._modules.get("allocator")  # type: ignore[return-value]

    def query(self, batch: Batch) -> Query:
        """What the text before an image's first answer says, word by word: all that may steer how it is seen."""
        words, ids, owner = batch.prompt & batch.valid & (batch.image_slot == -1), batch.input_ids, batch.owner
        if batch.segment is not None and batch.conversation is not None:
            words = words[owner] & (batch.segment[owner] == batch.conversation[:, None])
            ids, owner = ids[owner], torch.arange(len(owner), device=owner.device)
        if not torch.compiler.is_compiling():  # without the places of images, which are many times as many
            at = first(words, max(1, int(words.sum(1).max())))
            words, ids = words.gather(1, at), ids.gather(1, at)
        return Query(features=self.language.embedding(ids), valid=words, owner=owner)  # type: ignore[operator]

    def _deeper(
        self, seen: VisualTokens, made: VisualTokens, connected: Callable[[Any, VisualTokens], VisualTokens]
    ) -> tuple[Tensor, ...]:
        """Each level through its own connector; raises InputError where features come with another number of them, and
        where a connector leaves another number of tokens than there are `made`.
        """
        assert self.deeper is not None
        if len(seen.levels) != len(self.deeper):
            raise InputError(
                f"features of {len(seen.levels)} levels for {len(self.deeper)} connectors of levels; encode them anew"
            )
        plain = replace(seen, levels=())
        pairs = zip(self.deeper, seen.levels, strict=True)
        levels = tuple(connected(connector, plain.with_features(level)).features for connector, level in pairs)
        if other := [len(level) for level in levels if len(level) != len(made.features)]:
            raise InputError(
                f"the connector leaves {len(made.features)} visual tokens and that of the levels {other[0]}; give "
                "model.levels one that leaves as many"
            )
        return levels

    def looked(self, batch: Batch) -> Batch:
        """The batch with what the encoder says in the place of its pictures, where these are encoded as they are."""
        seen = None if seats.acts_before(self._spender) else self.look(batch)
        return batch if seen is None else replace(batch, visual=seen, regions=None)

    def look(self, batch: Batch) -> VisualTokens | None:
        """The same before the connector: what the encoder says, or the features that the batch brings.

        Tiles of an image are images of their own here.
        """
        visual = visible(batch.visual)
        if visual is None:
            return None
        if self.connector is None and self.vision is None:
            raise InputError("the batch holds images but the model has no vision encoder; load one that has")
        seen = seats.before(self._spender, visual, self._bare)
        if not isinstance(seen, VisualTokens):
            if self.vision is None:
                raise InputError("the batch holds pixels but the model reads features made elsewhere; give these")
            seen = encoded(self.vision, seen, seats.needs(self._spender))
        if seen.codes is None and (recognise := getattr(self.vision, "recognise", None)) is not None:
            seen = replace(seen, codes=recognise(seen.features))  # features out of a store hold none
        return seen if batch.regions is None else pooled(seen, batch.regions)

    def plan(self, sizes: Sequence[Grid | Cut] | Layout, frames: tuple[int, ...] | None = None) -> Layout:
        """The visual tokens that images of these sizes (height, width) will bring, cut ones, or regions of this layout.

        As many of the sizes in a row as `frames` say are those of the frames of one video (None: there is none).
        """
        if self.vision is None and (self.connector is None or not isinstance(sizes, Layout)):
            given = len(sizes.counts) if isinstance(sizes, Layout) else len(sizes)
            way = "ask in text alone" if self.connector is None else "it reads features made elsewhere"
            raise InputError(f"{given} images for a model without a vision encoder; {way}")
        sizes = sizes if isinstance(sizes, Layout) else seats.sizes(self._spender, sizes, self._bare)
        cuts = None if isinstance(sizes, Layout) else tuple(one for one in sizes if isinstance(one, Cut)) or None
        if not isinstance(sizes, Layout):
            sizes = self._planned(sizes, frames)
        one = self._spender if cuts is None else None
        layout = sizes if self.connector is None else seats.connected(one, self.connector, sizes)
        if cuts is not None and not self.reads_whole:
            tiles, layout = layout, self._join().plan(layout, cuts)
            layout = layout if self._spender is None else planned(self._spender, tiles, cuts, layout)
        layout = layout if self._spender is None else self._spender.plan(layout)
        placed = getattr(self.fusion, "placed", None)
        return layout if placed is None else placed(layout)

    def _bare(self, sizes: Sequence[Grid | Cut]) -> Layout:
        """What images of these sizes, whole or cut, bring before a budget is spent."""
        cuts, layout = [one for one in sizes if isinstance(one, Cut)], self._planned(sizes, None)
        layout = layout if self.connector is None else self.connector.plan(layout)
        return self._join().plan(layout, cuts) if cuts and not self.reads_whole else layout

    @property
    def steered(self) -> bool:
        """Whether what is asked changes what is seen of an image: rows that ask otherwise cannot share it."""
        return seats.steered(self._spender, self.connector, self.fusion)

    @property
    def hears_later(self) -> bool:
        """Whether what follows an image changes how it is read: its rows cannot share what they have read of it."""
        return getattr(self.fusion, "hears_later", False) or seats.acts_within(self._spender)

    def tile_plan(self, cuts: Sequence[Cut]) -> Layout:
        """What the connector says of all tiles of images that are cut so, each an image by itself."""
        layout = self._planned(cuts, None)
        return layout if self.connector is None else self.connector.plan(layout)

    @property
    def reads_whole(self) -> bool:
        """Whether the encoder itself joins the tiles of an image, or the frames of a video."""
        return getattr(self.vision, "reads_tiles", False) or getattr(self.vision, "reads_frames", False)

    def _planned(self, sizes: Sequence[Grid | Cut], frames: tuple[int, ...] | None) -> Layout:
        """What the encoder will say of images; one that `reads_frames` joins those of a video itself."""
        assert self.vision is not None
        tiles = self._tiles(sizes)
        if not getattr(self.vision, "reads_frames", False):
            return self.vision.plan(tiles).filmed(frames)
        cuts = [one for one in sizes if isinstance(one, Cut)]
        if parted := [cut for cut in cuts if cut.grid != (0, 0)]:
            raise InputError(
                f"{len(parted)} of {len(cuts)} images are cut into tiles, and this encoder reads them whole; take "
                "processor.image.tiling of the kind 'area' or 'naflex', or none"
            )
        numbers = tuple(cut.tiles for cut in cuts) if cuts else frames
        return self.vision.plan(tiles, numbers)  # type: ignore[call-arg]

    def plan_by_layer(
        self, sizes: Sequence[Grid | Cut] | Layout, frames: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """How many visual tokens of these images each language layer will see among its words."""
        layout = self.plan(sizes, frames)
        by_layer = getattr(self.fusion, "by_layer", None)
        seen = seats.by_layer(self._spender, layout, self.language.depth) if by_layer is None else by_layer(layout)
        return tuple(sum(counts) for counts in seen) if seen else (sum(layout.places),) * self.language.depth

    def _tiles(self, sizes: Sequence[Grid | Cut]) -> list[Grid]:
        """The sizes of what the encoder will see one by one; raises InputError where only some images are cut."""
        whole = [one for one in sizes if not isinstance(one, Cut)]
        cuts = [one for one in sizes if isinstance(one, Cut)]
        if whole and cuts:
            raise InputError(f"{len(cuts)} of {len(sizes)} images are cut into tiles; cut all of a batch, or none")
        each = getattr(self.vision, "reads_tiles", False)
        return whole or [cut.tile for cut in cuts for _ in range(1 if each else cut.tiles)]

    def _join(self) -> Joined:
        if "joined" not in self._modules:
            raise InputError("this model sees whole images, and these are cut; leave processor.image.tiling out")
        return self.joined


def _connected(
    connector: Any,
    seen: VisualTokens,
    batch: Batch,
    width: int | None,
    gaze: Gaze | None = None,
    laid: int | None = None,
) -> VisualTokens:
    query, led = getattr(connector, "query", None), {} if gaze is None else {"gaze": gaze}
    asked = () if query is None else (query(batch, **({} if gaze is None else {"per_image": laid or len(gaze.led)})),)
    plan = connector.plan(seen.layout)
    plan = plan if gaze is None else replace(plan, counts=(len(gaze.led),) * len(plan.counts))
    return as_planned("connector", connector, connector(seen, *asked, **led), plan, width)


def encoded(vision: VisionEncoder, pixels: Pixels | Patches, needs: tuple[str, ...] = ()) -> VisualTokens:
    """What the encoder says, with what else is needed of it; raises InputError for patches where it wants pixels."""
    look = vision.attended if "attention" in needs else vision  # type: ignore[attr-defined]
    if getattr(vision, "reads_frames", False):
        seen = look(pixels)  # type: ignore[arg-type]
        return as_planned("vision", vision, seen, seen.layout, getattr(vision, "width", None))
    if isinstance(pixels, Patches):
        raise InputError(
            f"the batch holds {len(pixels.values)} patches, and this encoder reads pictures; take 'qwen_vit', or leave "
            "processor.image.tiling of the kind 'area' or 'naflex' out"
        )
    joins = getattr(vision, "reads_tiles", False)
    look = looking(vision, look)
    return replace(_by_size(vision, pixels, look).filmed(pixels.frames), cuts=None if joins else pixels.cuts)


def _owners(cuts: Sequence[Cut]) -> Int[Tensor, " T"]:
    """The image of each tile."""
    return torch.tensor([image for image, cut in enumerate(cuts) for _ in range(cut.tiles)], dtype=torch.long)


def _by_size(vision: VisionEncoder, pixels: Pixels, look: Callable[[Pixels], VisualTokens]) -> VisualTokens:
    """What the encoder says; one that does not read tiles of several sizes side by side is given each size alone."""
    if pixels.sizes is None or getattr(vision, "reads_sizes", False):
        return look(pixels)
    alike: dict[Grid, list[int]] = {}
    for tile, size in enumerate(pixels.sizes):
        alike.setdefault(size, []).append(tile)
    parts = [look(Pixels.whole(pixels.values[mine, :, : size[0], : size[1]])) for size, mine in alike.items()]
    return taken(together(parts), sorted(range(len(pixels.sizes)), key=[*chain(*alike.values())].__getitem__))


def flow(
    stream: Stream,
    *,
    language: LanguageModel,
    fusion: Fusion,
    spender: Allocator | None = None,
    keep_hidden: bool = False,
    only: Int[Tensor, "B Q"] | None = None,
    begin: int = 0,
    end: int | None = None,
) -> tuple[Stream, list[Tensor]]:
    """The stream after the last layer, and where states are kept, what enters the first layer and what each but the
    last says.

    With `only`, the last layer speaks at these places alone. The stream may stand before layer `begin`, and stop before
    layer `end`, which another process holds.
    """
    stream, states = stream if begin else language.enter(stream), []
    ahead = getattr(fusion, "asks_ahead", False)
    later = stream.cache is not None and stream.visual is None  # sees of an earlier pass what a layer holds of it
    for i, layer in enumerate([*language.layers][begin:end], begin):
        stream, entered = _fused(fusion, i, replace(stream, ahead=layer) if ahead else stream)
        states += entered if keep_hidden else []
        stream = seats.at_layer(spender, i, stream, ahead=layer, depth=language.depth)
        stream = thin(stream, None, layer=i) if later else stream
        places = placed(stream, only) if only is not None and i + 1 == language.depth else None
        stream = layer(stream) if places is None else alone(layer, stream, places)
    if end is not None:
        return stream, states
    stream, entered = _fused(fusion, language.depth, stream)
    return stream, [*states, *entered[:-1]] if keep_hidden else states


def _fused(fusion: Fusion, index: int, stream: Stream) -> tuple[Stream, list[Tensor]]:
    """The stream before this layer, and the states to keep: two where the fusion counts its own layers among others."""
    before = stream.hidden
    stream = fusion.at_layer(index, stream)
    if getattr(fusion, "counted", False) and stream.hidden is not before:
        return stream, [before, stream.hidden]
    return stream, [before if index else stream.hidden]
