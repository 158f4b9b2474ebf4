"""What the rooms promise each other: a room's component is anything that fits its protocol.

What a protocol declares every component has. What its description lists beyond that some have; where one lacks it, a
number is 0, a yes is a no, and what it would do is not done.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from foveal.core.types import Batch, Cache, Cut, Grid, Layout, Pixels, Query, Reconstruction, Stream, VisualTokens

Plan = Callable[[Sequence[Grid | Cut]], Layout]  # what images of these sizes bring


@runtime_checkable
class VisionEncoder(Protocol):
    """Pixels to visual tokens of width `width`; `plan` knows their number from the image sizes alone.

    One that `reads_tiles` is given the tiles of an image together and joins them itself, one that `reads_sizes` tiles
    of several sizes side by side. One that `reads_frames` joins those of a video: it takes `Patches` too, and plans by
    the `frames` of each. One that attends has `attended(pixels)`: the same tokens with `attention` and `keys`. One with
    `levels` beside its last layer tells their `level_widths`. One of a codebook of so many `codes` has
    `recognise(features)`, the codes of its features. One whose tokens lie on no grid says so: `on_grid` is False, and
    `image_size` the side of what it reads.
    """

    width: int

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """The layout of the tokens for images of these sizes (height, width in pixels)."""
        ...

    def __call__(self, pixels: Pixels) -> VisualTokens:
        """Exactly the planned tokens."""
        ...


@runtime_checkable
class ImageTokenizer(VisionEncoder, Protocol):
    """A vision encoder whose tokens are entries of a codebook, and that makes pixels of them again by its `decoder`.

    `encode(values)` gives the codes of pixels alone. One without a `decoder` (None) reads pictures and makes none.
    """

    codebook: nn.Embedding

    @property
    def levels(self) -> Sequence[nn.Module]:
        """The parts, of either direction, that one map after the other goes through."""
        ...

    def reconstruct(self, values: Tensor) -> Reconstruction:
        """Pixels `[I C H W]` through their codes and back."""
        ...


@runtime_checkable
class Connector(Protocol):
    """Visual tokens of width E to visual tokens of width D; returns exactly what it planned.

    One whose `latents`, so many learned queries, look at each image takes a `gaze` when it is called, which names fewer
    of them and leads them, and has `said(visual)`, `[S D]`: what each token would tell a query that looks at it alone.
    One that may hear what is asked has `query(batch)`, which makes of it what it is called with beside the tokens, and
    is `steered` where it does.
    One that `counts_images` is told the number of each among those of its row. One that changes over a run has
    `at_progress(done)`, called with how much lies behind, and one with numbers for the log `told()`, which gives them.
    """

    def plan(self, layout: Layout) -> Layout:
        """The layout after the connector; an InputError where it cannot fold this layout."""
        ...

    def __call__(self, visual: VisualTokens) -> VisualTokens:
        """Exactly the planned tokens."""
        ...


@runtime_checkable
class Allocator(Protocol):
    """Fewer visual tokens out of many, as many as it planned; one that is `steered` hears the question.

    One that `needs` "attention" is given tokens that bring the encoder's, and one that `hears` words of a certain
    width fits no other. One that tells what tokens are `worth(visual, query)` can tell it of those that a fusion
    thins out, has `priced(visual, query, terms)`, which spends by what a token gains, and `shares(maps, grid,
    query, row)`, what its kinds of knowing come to, which an objective may teach: `knowing` makes the maps of features
    and of what is known `beside(visual, images)` them. One that chooses tiles has
    `glance(features, grid, query, row)`, what each cell of the view of a whole image is worth, and the share
    `cover` of it that tiles must hold. Its `realize` says what a token becomes that stands for several. One that
    leads the queries of a connector has `gaze(visual, said, query, count)`, how so many of them look at what comes
    before the connector. One that acts before the encoder has `sizes(sizes, plan)`, those at which images of these
    sizes are encoded, and `before(pixels, plan)`, which brings them there; `plan` says what tokens images of any
    sizes bring. One that acts in the language model has `cuts(depth)`, the layers before which tokens leave,
    `by_layer(layout, depth)`, how many of each image every layer sees, and `at_layer(index, stream, depth)`, called
    before each layer, which it may ask as `stream.ahead`.
    """

    steered: bool

    def plan(self, layout: Layout) -> Layout:
        """The layout that is left; an InputError where it cannot choose among tokens that lie so."""
        ...

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Exactly the planned tokens, of those between the connector and the language model."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A stack of layers over a stream; the head is apart from it.

    One whose stream does not say which tokens are `valid` has `tells_valid` of False, for fusions that `reads_valid`.
    One that looks at images out of its own layers `reads_memory`. One with rotary positions has their `rope` (None:
    none), one that embeds words in another width its `word_width`, one that reads text its `embedding`, whose
    `weight` a head may share. A layer may speak at some places alone, by `only(stream, at)` (a `Speaking` one is
    called with both), tell how much of each token these take, by `shares(stream, at)`, and what its `attention` is
    given, by `reads(stream)`: states, a mask (None: the earlier ones are seen) and what heads turn by (None: nothing);
    of one whose weights are asked before its call `read_ahead` is true.
    """

    width: int
    vocabulary: int
    context: int  # the most positions it can tell apart
    depth: int

    @property
    def layers(self) -> Iterable[nn.Module]:
        """The layers; each maps a stream to a stream."""
        ...

    def open(self, batch: Batch, cache: Cache | None = None) -> Stream:
        """Embed the batch's tokens and prepare positions and mask: the stream before layer 0."""
        ...

    def enter(self, stream: Stream) -> Stream:
        """What stands between the fused input and layer 0 (BERT's norm over words and sight together)."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """What stands between the last layer and a head, `[B L D]` to `[B L D]`."""
        ...


@runtime_checkable
class GenerativeModel(LanguageModel, Protocol):
    """A language model that writes: it sees no later token and can keep what it has read."""

    def cache(self, batch: int, length: int) -> Cache:
        """Room for the keys and values of `batch` rows of `length` tokens."""
        ...


class Head(Protocol):
    """States `[B L D]`, of all places or of some, to what is told of them.

    One that reads the `first` token of each row is given that alone. Where sight has states of its own, one `reads`
    those of "words" or of "sight", or is given "both".
    """

    def __call__(self, hidden: Tensor) -> Tensor:
        """Scores, vectors or values."""
        ...


@runtime_checkable
class Fusion(Protocol):
    """Where and how vision meets language; a hybrid is a fold over several of them.

    One that makes words of images has `at_words(batch, visual) -> Batch` too, called before the text is embedded;
    one whose images take other places in the text than one a token has `placed(layout) -> Layout`, which sets `slots`.
    Images are words of the vocabulary for one that reads `codes` of so many, the first words of which are `words`. One
    that enters before layer 0 and nowhere else is `early`; one that reads the encoder's `levels` says how many, and one
    whose own layers count among the kept states is `counted`. One that keeps sight in a stream of a width of its own,
    `apart`, has `states(stream)`, `first(stream)` and `at(where, stream)` for heads that read it, and the layers
    `to_sight` where words look at it; one that hands it to a language model that reads a memory `fills_memory`.

    One whose own layers stand between those of the language model tells `block(index)`, which of them it calls before a
    layer (None: none).

    One that `thins` visual tokens out has `by_layer(layout)`, how many of each image every layer sees, and
    `at_sparsity(done, curve)`, told how much of the way there lies behind. It `reads_relevance` where it must know what
    tokens are worth, `asks_ahead` where it asks `stream.ahead` of each layer first, and `hears_later` where what
    follows an image changes how it is read.
    """

    causal: bool  # False: unfit for a model that must not see later tokens

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Called once, before layer 0."""
        ...

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Called before layer `index`, and once after the last with `index` equal to the depth."""
        ...


def in_line(fusion: object) -> bool:
    """Whether all visual tokens stand in the text as tokens of their own, one to a place, before every layer."""
    elsewhere = any(hasattr(fusion, part) for part in ("placed", "apart", "fills_memory", "codes"))
    return not elsewhere and not getattr(fusion, "thins", False)
