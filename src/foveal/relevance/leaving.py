"""Visual tokens that leave within the language model: what every strategy there shares."""

from collections.abc import Callable, Mapping

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream
from foveal.layers.thinning import askers, attended, groups, leave

Seen = tuple[tuple[int, ...], ...]  # how many tokens of each image every layer sees


def by_layer(layout: Layout, left: Mapping[int, tuple[int, ...]], depth: int) -> Seen:
    """How many tokens of each image every layer sees, where so many are left from these layers on."""
    counts, seen = layout.counts, []
    for index in range(depth):
        counts = left.get(index, counts)
        seen.append(counts)
    return tuple(seen)


def weighed(stream: Stream) -> Stream:
    """The stream with what the end of the prompt would take of each token in the coming layer, as its worth."""
    if stream.visual is None:
        return stream
    return stream.with_worth(attended(stream, askers(stream, groups(stream, stream.visual))))


def cut(stream: Stream, plan: Callable[[Layout, int], Seen], depth: int, *, layer: int) -> Stream:
    """The stream of as many tokens of each image as this of `depth` layers sees, the worthiest; without their worth."""
    if stream.visual is None:
        return stream
    assert stream.worth is not None
    group = groups(stream, stream.visual)
    asked, bare = askers(stream, group), stream.with_worth(None)
    return leave(bare, stream.worth, plan(stream.visual.layout, depth), group=group, asked=asked, layer=layer)


def checked_layer(layer: int, depth: int, *, name: str) -> None:
    """Raises InputError for a layer that the language model lacks."""
    if not 1 <= layer < depth:
        raise InputError(
            f"strategy {name!r} cuts before layer {layer} of a language model with {depth}; name 1 to {depth - 1}"
            if depth > 1
            else f"strategy {name!r} cuts between layers, and the language model has {depth}; take another strategy"
        )
