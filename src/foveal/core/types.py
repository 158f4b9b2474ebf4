"""What flows between rooms.

Letters of the whole library: B texts, L text tokens, D language width, V vocabulary; I images, T frames or tiles,
S visual tokens of all images packed end to end, E vision width; C H W pixels; K cached and new keys together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from foveal.core.example import Box
from foveal.core.kept import kept
from foveal.core.layout import Cut as Cut
from foveal.core.layout import Grid as Grid
from foveal.core.layout import Layout as Layout
from foveal.core.looked import Looked as Looked
from foveal.core.looked import Relevance as Relevance
from foveal.core.pixels import Movable
from foveal.core.pixels import Patches as Patches
from foveal.core.pixels import Pixels as Pixels

IGNORE = -100  # a label that carries no loss


@dataclass(frozen=True, kw_only=True)
class Fan:
    """A row laid out as one trunk of valid tokens, then `branches` blocks of `length` (each padded on its right).

    Attention over such rows needs no mask over all pairs: branches read the trunk and themselves. `mutual` are the
    spans of the trunk (begin, end) whose tokens see each other, not only the earlier ones.
    """

    trunk: int
    branches: int
    length: int
    mutual: tuple[tuple[int, int], ...] = ()


pytree.register_constant(Fan)


@dataclass(frozen=True, kw_only=True)
class VisualTokens(Movable):
    """Visual tokens of all images, packed end to end in image order.

    `boxes` say where in its image a token lies (x0 y0 x1 y1 as fractions of width and height; where a reference gives
    it, a fifth number for the share of the image), `mass` how many patches it stands for, `levels` hold the same
    tokens at other encoder depths, `classes` what each shows, as the distribution that a detector or classifier gives
    (zeros: nobody has told), `codes` which entry of a codebook it is. The fusion hides those that are `masked`. With
    videos, `frame` counts the frames of each image, and boxes are places in a frame. `number` counts the images of
    each row, for connectors that ask. With `cuts`, each entry of the layout is a tile of one of these images and not
    an image. `marks` are vectors for words that speak of images, such as where one begins, for fusions that know
    these. Tokens that a budget left know the layout `before` it: in the text they keep the places that they had.
    `relevance` is what someone outside the model says that each is worth, `looked` what the cut of each image came
    from. Where they were asked for, `attention` is what the encoder's class token takes of each (without one: what all
    take, on average), and `keys` are those of each head by which it does.
    """

    features: Float[Tensor, "S E"]
    layout: Layout
    image: Int[Tensor, " S"]
    boxes: Float[Tensor, "S box"]
    mass: Float[Tensor, " S"]
    levels: tuple[Tensor, ...] = ()
    classes: Float[Tensor, "S N"] | None = None
    codes: Int[Tensor, " S"] | None = None
    masked: Bool[Tensor, " S"] | None = None
    frame: Int[Tensor, " S"] | None = None
    number: Int[Tensor, " S"] | None = None
    cuts: tuple[Cut, ...] | None = None
    looked: tuple[Relevance | None, ...] = ()
    marks: Float[Tensor, "K E"] | None = None
    relevance: Float[Tensor, " S"] | None = None
    before: Layout | None = None
    attention: Float[Tensor, " S"] | None = None
    keys: Float[Tensor, "S H d"] | None = None

    @classmethod
    def on_layout(
        cls, features: Float[Tensor, "S E"], layout: Layout, levels: tuple[Tensor, ...] = ()
    ) -> "VisualTokens":
        """Tokens in raster order of each image's grid; tokens on no grid get the whole image as their box."""
        device = features.device
        image, boxes, frame = _places(layout)  # copied, so that whoever changes them changes no later ones
        image, boxes = image.to(device, copy=True), boxes.to(device, copy=True)
        frame = None if frame is None else frame.to(device, copy=True)
        mass = torch.ones(layout.total, device=device, dtype=torch.float32)
        return cls(features=features, layout=layout, image=image, boxes=boxes, mass=mass, levels=levels, frame=frame)

    def filmed(self, frames: tuple[int, ...] | None) -> "VisualTokens":
        """The same tokens with their images as frames of videos; takes the errors of `Layout.filmed`."""
        layout = self.layout.filmed(frames)
        if layout is self.layout:
            return self
        plain = VisualTokens.on_layout(self.features, layout)
        return replace(self, layout=layout, image=plain.image, frame=plain.frame)

    def with_features(self, features: Float[Tensor, "S D"]) -> "VisualTokens":
        """The same places with other features."""
        return replace(self, features=features)


@kept(64)
def _places(layout: Layout) -> tuple[Tensor, Tensor, Tensor | None]:
    tiles, owner = layout.by_frame(), _numbered(layout.counts, tuple(range(len(layout.counts))))
    boxes = [_cells(count, grid) for count, grid in zip(tiles.counts, tiles.grids, strict=True)]
    numbers = None if layout.frames is None else [i for count in layout.frames for i in range(count)]
    frame = None if numbers is None else _numbered(tiles.counts, tuple(numbers))
    return owner, torch.cat(boxes) if boxes else torch.zeros(0, 4, dtype=torch.float32), frame


def _numbered(counts: tuple[int, ...], numbers: tuple[int, ...]) -> Tensor:
    """Each of the numbers as often as its count says."""
    every = [torch.full((count,), number, dtype=torch.long) for number, count in zip(numbers, counts, strict=True)]
    return torch.cat(every) if every else torch.zeros(0, dtype=torch.long)


def _cells(count: int, grid: Grid | None) -> Tensor:
    if grid is None:
        return torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float32).repeat(count, 1)
    rows, columns = grid
    down, across = (torch.arange(side, dtype=torch.float32) / side for side in grid)
    y, x = torch.meshgrid(down, across, indexing="ij")
    corners = torch.stack([x, y, x + 1 / columns, y + 1 / rows], dim=-1)
    return corners.reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class Regions(Movable):
    """Parts of images that are to be its visual tokens: `boxes` as in `VisualTokens`, end to end in image order."""

    boxes: Float[Tensor, "R 4"]
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Gaze(Movable):
    """How a connector's first learned queries look at each image, as many as `led` says: to the scores that those which
    are led give the visual tokens, `bias` is added, and the others look as they like.
    """

    led: tuple[bool, ...]
    bias: Float[Tensor, " S"]
    looked: tuple[Relevance | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Query(Movable):
    """What the question says, for whoever steers vision by it; an image finds its row by `owner`."""

    features: Float[Tensor, "B L Q"]
    valid: Bool[Tensor, "B L"]
    owner: Int[Tensor, " I"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@dataclass(frozen=True, kw_only=True)
class Batch(Movable):
    """Texts and their images, ready for a model.

    `prompt` marks the tokens before the first answer: the only text that may steer vision. `image_slot` says which
    visual token stands at a place (-1 for text; -2 - k for text that mark k of the visual tokens stands for). `labels`
    are the input ids where a loss is wanted and IGNORE elsewhere (not shifted). `segment` tells packed conversations
    in a row apart, and `conversation` says in which of them each image stands (both None where a row is one); within a
    segment, tokens of `branch` 0 are the trunk that all see, and tokens of another branch see the trunk and their own
    branch alone.
    `positions` restart in each segment and continue from the trunk in each branch; None means counted from `valid`.
    They may have several axes, such as time, row and column; what is written goes on from the last on each.
    A token sees those of its own or a lower `order`: None means their place, so that the earlier ones are seen; the
    tokens of an image may share one, so that they see each other. `looks` says which of its row's images, in order, or
    which of their equal parts `[B L N P]`, a token looks at, for fusions that ask; None: by their own rule.
    `question` is what each image is asked in words of another vocabulary (-1: none), out of the prompt alone, for who
    steers vision by such; None: the prompt itself is heard.
    `types` are token types (BERT's segments; of visual tokens too); None means 0 for text and 1 for visual tokens.
    `alignment` names, for each visual token, the places in its row of the words that it shows (-1: no more).
    With `regions`, what the encoder sees is pooled to these before the connector. `seen` are the images in language
    width, where nothing is left to do but to fuse them.
    `begin` is the place of each row that heads of whole rows read; None: its first valid one.
    With `choices`, so many rows in turn are one question with its choices, whose words carry the labels.
    `full` promises that every token (cached ones too) is valid and that each row is one segment and one branch.
    """

    input_ids: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    prompt: Bool[Tensor, "B L"]
    image_slot: Int[Tensor, "B L"]
    visual: Pixels | Patches | VisualTokens | None = None
    regions: Regions | None = None
    seen: VisualTokens | None = None
    owner: Int[Tensor, " I"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    labels: Int[Tensor, "B L"] | None = None
    positions: Int[Tensor, "B L *A"] | None = None
    segment: Int[Tensor, "B L"] | None = None
    conversation: Int[Tensor, " I"] | None = None
    branch: Int[Tensor, "B L"] | None = None
    order: Int[Tensor, "B L"] | None = None
    looks: Bool[Tensor, "B L *N"] | None = None
    question: Int[Tensor, "I Q"] | None = None
    types: Int[Tensor, "B L"] | None = None
    alignment: Int[Tensor, "S A"] | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)  # what auxiliary objectives read
    begin: Int[Tensor, " B"] | None = None
    choices: int = 0
    full: bool = False
    fan: Fan | None = None

    @property
    def begins(self) -> Int[Tensor, " B"]:
        """Where each row begins: `begin`, or its first valid place, whichever side the padding is on."""
        return self.valid.int().argmax(1) if self.begin is None else self.begin

    def only(self, at: Int[Tensor, "B Q"]) -> "Batch":
        """These places of each row alone, `[B Q]`, in this order; what is said of whole rows stays as it was."""
        own = "input_ids", "valid", "prompt", "image_slot", "labels", "positions"
        return replace(self, **_at(self, (*own, "segment", "branch", "order", "looks", "types"), at))


@runtime_checkable
class Cache(Protocol):
    """Keys and values of earlier tokens, one store a layer.

    `memory` keeps, by layer, the keys and values of what cross-attention reads and the mask over them.
    """

    memory: dict[int, tuple[Tensor, Tensor, Tensor | None]]
    shift: Tensor | None  # how much further each row's next place is than its tokens are many `[B]`; None: not at all

    @property
    def tokens(self) -> Tensor:
        """How many tokens of each row it holds, `[B]`."""
        ...

    def extend(self, valid: Tensor) -> Tensor:
        """Make room for new tokens `valid[B L]`, once before the first layer; the validity of all `[B K]`."""
        ...

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new keys and values `[B H L d]` of a layer and return all of them `[B H K d]`."""
        ...

    def thin(self, layer: int, at: Tensor | None, real: Tensor | None, *, length: int) -> Tensor | None:
        """From `layer` on hold, of the `length` new tokens that came so far, those `at` alone; which are `real`."""
        ...

    def where(self, layer: int) -> Tensor | None:
        """Where what `layer` holds stands among what the layer before it holds; None: there is no difference."""
        ...


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Which tokens of a flattened batch are words and which are sight; `back` puts these, end to end, in order."""

    words: Int[Tensor, " N"]
    sight: Int[Tensor, " M"]
    back: Int[Tensor, " N+M"]


@dataclass(frozen=True, kw_only=True)
class Stream(Movable):
    """What flows through the language layers.

    `mask` is True where a query may look at a key; None means plain causal attention. `rotary` holds the cosines
    and sines of `positions`. `types`, `owner`, `looks`, `segment` and `branch` are those of the batch, `memory` is what
    cross-attention reads where `memory_mask` lets it (None: everywhere), each token where `memory_seen` does. `levels`
    are the visual tokens at other encoder depths, for fusions that add them between the layers. Where tokens have left
    their rows, `places` say where in the batch those that are left stood; `worth` is what a layer found each token to
    be worth to the next one.
    """

    hidden: Float[Tensor, "B L D"]
    positions: Int[Tensor, "B L *A"]
    slots: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B 1 L K"] | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    types: Int[Tensor, "B L"] | None = None
    valid: Bool[Tensor, "B L"] | None = None  # set where a fusion may need it
    prompt: Bool[Tensor, "B L"] | None = None  # likewise
    places: Int[Tensor, "B L"] | None = None
    worth: Float[Tensor, "B L"] | None = None
    visual: VisualTokens | None = None  # set where a fusion asks them between the layers
    ahead: nn.Module | None = None  # the layer that comes next, where a fusion asks it
    apart: Apart | None = None  # set where the layers treat words and sight apart
    memory: Tensor | None = None
    memory_mask: Bool[Tensor, "B 1 1 M"] | None = None
    memory_seen: Bool[Tensor, "B 1 L M"] | None = None
    levels: tuple[Float[Tensor, "S D"], ...] = ()
    whole: "Stream | None" = None  # set where the layers read some places alone: the stream with all of them
    owner: Int[Tensor, " I"] | None = None
    looks: Bool[Tensor, "B L *N"] | None = None
    segment: Int[Tensor, "B L"] | None = None
    branch: Int[Tensor, "B L"] | None = None
    cache: Cache | None = None
    fan: Fan | None = None  # set where `mask` is what the fan says
    falling: tuple[Tensor, Tensor, Tensor] | None = None  # a mask, positions, and what layers add to scores by the two

    def with_hidden(self, hidden: Float[Tensor, "B L D"]) -> "Stream":
        """The same stream with other hidden states."""
        return replace(self, hidden=hidden)

    def with_worth(self, worth: Float[Tensor, "B L"] | None) -> "Stream":
        """The same stream whose tokens are worth so much."""
        return replace(self, worth=worth)

    def only(self, at: Int[Tensor, "B Q"]) -> "Stream":
        """These places of each row alone, `[B Q]`, without what says how they look at each other."""
        own = "hidden", "positions", "slots", "valid", "prompt", "places"
        kept = _at(self, (*own, "segment", "branch", "looks", "types"), at)
        seen = None if self.memory_seen is None else self.memory_seen.take_along_dim(at[:, None, :, None], 2)
        return replace(self, **kept, memory_seen=seen, mask=None, rotary=None, fan=None, falling=None)


def _at(rows: Batch | Stream, names: tuple[str, ...], at: Int[Tensor, "B Q"]) -> dict[str, Tensor]:
    """These places of each row, of those fields `[B L ...]` that are there."""
    parts = {name: part for name in names if (part := getattr(rows, name)) is not None}
    return {name: part.take_along_dim(at[(..., *[None] * (part.ndim - 2))], 1) for name, part in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a model returns: `logits` (of fewer tokens when so asked), and what else was wanted.

    `heads` holds what each head says, by its name, where a model has several. `labels` are what the logits of labelled
    tokens should say, where these alone were wanted.
    """

    logits: Float[Tensor, "*batch V"]
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    visual: VisualTokens | None = None
    labels: Int[Tensor, " N"] | None = None
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def image_hidden_states(self) -> Tensor | None:
        """What the language model saw of the images, `[S D]`, by the name that Hugging Face gives it."""
        return None if self.visual is None else self.visual.features


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer in words, and what it cost to see: visual tokens that entered the language model.

    `boxes` are the objects that it names, where the model says where they are; `relevance` are the maps by which a
    budget was spent on each picture, in the picture's own coordinates (None: it was not cut, or not by such). Tokens
    that stand in its padding alone are read, and have no box there. A `note` says where the budget was not needed, or
    is lacking. Answers are equal that say and cost the same, whatever their maps.
    """

    text: str
    visual_tokens: int
    token_ids: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    relevance: tuple[Looked | None, ...] = field(default=(), compare=False)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Pixels out of codes, and the two losses that bring states and codebook together (1711.00937, equation 3).

    `states` are what the encoder said of every cell before the nearest of the codebook's entries, `codes`, was taken.
    """

    pixels: Float[Tensor, "I C H W"]
    codes: Int[Tensor, "I h w"]
    states: Float[Tensor, "I h w E"]
    commitment: Float[Tensor, ""]
    codebook: Float[Tensor, ""]


Seen = TypeVar("Seen", bound=Pixels | Patches | VisualTokens)


def visible(visual: Seen | None) -> Seen | None:
    """What there is to see; None for the pixels, patches or tokens of no image, which a batch of texts may hold."""
    if isinstance(visual, Pixels):
        return visual if len(visual.values) else None
    images = None if visual is None else visual.grids if isinstance(visual, Patches) else visual.layout.counts
    return visual if images else None


for _type in (Pixels, Patches, VisualTokens, Relevance, Regions, Gaze, Query, Batch, Stream, Output):
    torch.export.register_dataclass(_type)
