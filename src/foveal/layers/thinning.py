"""Tokens leave the stream on its way through the layers, and take their keys and values with them.

What is left keeps its positions, its order and who it sees. Which tokens leave is said by a mask; how they may be
chosen, by scores within groups of tokens, is here too.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Fan, Stream, VisualTokens
from foveal.layers.masks import attention_mask
from foveal.layers.meeting import places_of


def thin(
    stream: Stream, keep: Bool[Tensor, "B L"] | None, *, layer: int, known: tuple[int, int] | None = None
) -> Stream:
    """The stream of the tokens to `keep` (None: all), from `layer` on; a cache holds no others in these layers.

    Rows that keep fewer than others are filled up with some that nobody sees. The last place of the rows always stays,
    for from there the text goes on. It is `known` how many a row keeps at least and at most, or they are counted.
    """
    at, real = (None, None) if keep is None else _left(stream, keep, known)
    if at is None and stream.cache is None:
        return stream
    length = stream.hidden.shape[1]
    index, seen = at, real
    if stream.cache is not None:
        seen = stream.cache.thin(layer, at, real, length=length)
        plain = stream.mask is None and stream.fan is None and seen is None
        index = None if plain else stream.cache.where(layer)
        if at is None and index is None:
            return stream
    fan = None if at is None or stream.fan is None or seen is not None else thinner(stream.fan, at, length)
    mask = None if fan is not None else _mask(stream, at, index, seen)
    if at is None:
        return replace(stream, mask=mask)
    rotary = stream.rotary
    if rotary is not None:
        rotary = rotary[0].take_along_dim(at[:, None, :, None], 2), rotary[1].take_along_dim(at[:, None, :, None], 2)
    places = at if stream.places is None else stream.places.gather(1, at)
    left = stream.only(at)
    valid = left.valid if left.valid is None or real is None else left.valid & real
    return replace(left, mask=mask, rotary=rotary, places=places, fan=fan, valid=valid)


def _left(
    stream: Stream, keep: Bool[Tensor, "B L"], known: tuple[int, int] | None
) -> tuple[Int[Tensor, "B Q"] | None, Bool[Tensor, "B Q"] | None]:
    """The places of what is left, in order, and which of these are no filling (None: all are real)."""
    if stream.valid is not None:
        keep = keep & stream.valid
    if stream.fan is not None:  # its branches stay as they are laid out
        keep = keep | (torch.arange(keep.shape[1], device=keep.device) >= stream.fan.trunk)
    if known is not None:
        _check(keep, *known)
    fewest, most = known or _counted(keep)
    if fewest == keep.shape[1]:
        return None, None
    first = keep.float()
    first[:, -1] += 0.5  # before the filling of its row, if it is none of what is kept
    at = first.argsort(dim=1, descending=True, stable=True)[:, :most].sort(dim=1).values
    return at, None if fewest == most else keep.gather(1, at)


def _counted(keep: Bool[Tensor, "B L"]) -> tuple[int, int]:
    """How many places a row needs for what it keeps and for its last place, at least (without that) and at most."""
    counts = keep.sum(1).tolist()
    more = (count + 1 for count, last in zip(counts, keep[:, -1].tolist(), strict=True) if not last)
    return min(counts), max(*counts, *more, 1)


def _check(keep: Bool[Tensor, "B L"], fewest: int, most: int) -> None:
    counts = keep.sum(1)
    right = (counts >= fewest) & (counts + ~keep[:, -1] <= most)
    told = "rows with fewer images than others, or with a part of one; exported, give each row as many, and whole ones"
    torch._assert_async(right.all(), told)


def thinner(fan: Fan, at: Int[Tensor, "B Q"], length: int) -> Fan | None:
    """The fan of what is left, of which every row has as much; None where its mutual spans would differ by rows."""
    edges = torch.tensor([edge for span in fan.mutual for edge in span], dtype=at.dtype, device=at.device)
    left = (at[:, :, None] < edges).sum(1)
    if not bool((left == left[:1]).all()):
        return None
    moved = left[0].tolist()
    spans = tuple(zip(moved[::2], moved[1::2], strict=True))
    return replace(fan, trunk=fan.trunk - (length - at.shape[1]), mutual=spans)


def _mask(
    stream: Stream,
    at: Int[Tensor, "B Q"] | None,
    index: Int[Tensor, "B K"] | None,
    seen: Bool[Tensor, "B K"] | None,
) -> Bool[Tensor, "B 1 Q K"] | None:
    """Who sees whom of what is left: the queries `at`, and those `seen` of the keys `index` among the ones before."""
    mask, length = stream.mask if stream.fan is None else _unfanned(stream, stream.fan), stream.hidden.shape[1]
    if mask is None and seen is None:
        return None
    if mask is None:
        assert index is not None
        rows = torch.arange(length, device=index.device)[None] if at is None else at
        looks = index[:, None] <= rows[..., None] if length > 1 else torch.ones_like(index, dtype=torch.bool)[:, None]
        mask = looks[:, None]
    else:
        mask = mask if at is None else mask.take_along_dim(at[:, None, :, None], 2)
        mask = mask if index is None else mask.take_along_dim(index[:, None, None], 3)
    if seen is not None:
        mask = mask & seen[:, None, None]
    queries, keys = mask.shape[-2:]
    place = torch.arange(keys, device=mask.device)
    blind = ~mask.any(-1, keepdim=True)  # a filling sees itself, so that it stays finite
    return mask | (blind & (place == place[-queries:, None]))


def _unfanned(stream: Stream, fan: Fan) -> Bool[Tensor, "B 1 L L"]:
    rows, length = stream.slots.shape
    order = torch.arange(length, device=stream.slots.device)
    for begin, end in fan.mutual:
        order[begin:end] = begin
    valid = torch.ones_like(stream.slots, dtype=torch.bool) if stream.valid is None else stream.valid
    return attention_mask(
        valid, queries=length, order=order.expand(rows, -1), segment=stream.segment, branch=stream.branch
    )


def leave(
    stream: Stream,
    score: Float[Tensor, "B L"],
    seen: Sequence[Sequence[int]],
    *,
    group: Int[Tensor, "B L"],
    asked: Int[Tensor, "B L"],
    layer: int,
) -> Stream:
    """The stream of the words and, of each image, as many tokens as are `seen` by this of all layers, the best first.

    A place from where an answer begins stays, whatever its score. Exported, each row must hold its share of the images.
    """
    assert stream.visual is not None
    before, after = (stream.visual.layout.counts, *seen)[layer : layer + 2]
    most = torch.tensor(after, device=group.device)[stream.visual.image[stream.slots.clamp(min=0)]]
    keep = best(score.masked_fill(speaking(group, asked), torch.inf), group, most)
    going = [one - other for one, other in zip(before, after, strict=True)]
    known = _known(stream, going) if torch.compiler.is_exporting() else None  # else rows may hold what they like
    return thin(stream, keep, layer=layer, known=known)


def _known(stream: Stream, going: Sequence[int]) -> tuple[int, int]:
    """How many tokens a row keeps, at least and at most, where so many of each image are `going` and each row holds its
    share of the images: as many as the others, or, where that does not come out even, no fewer.
    """
    rows, length = stream.slots.shape
    share, going = len(going) // rows, sorted(going)
    even = len(going) == share * rows and stream.mask is None and stream.fan is None  # and no place is padding
    return length - sum(going[-share:]) if even else 0, length - sum(going[:share])


def placed(stream: Stream, at: Int[Tensor, "B Q"]) -> Int[Tensor, "B Q"]:
    """Where in the stream the tokens of these places of the batch stand; they must be there."""
    return at if stream.places is None else torch.searchsorted(stream.places, at)


def spread(stream: Stream, length: int) -> Float[Tensor, "B L D"]:
    """The states at their places among the batch's `length`; those that have left say nothing (zeros)."""
    if stream.places is None:
        return stream.hidden
    hidden = stream.hidden
    if stream.valid is not None:
        hidden = torch.where(stream.valid[..., None], hidden, 0.0)
    whole = hidden.new_zeros(hidden.shape[0], length, hidden.shape[2])
    return whole.scatter(1, stream.places[..., None].expand_as(hidden), hidden)


def groups(stream: Stream, visual: VisualTokens) -> Int[Tensor, "B L"]:
    """Equal numbers for the tokens of an image that stand in the same branch of a conversation; -1 for words."""
    seen = stream.slots >= 0 if stream.valid is None else (stream.slots >= 0) & stream.valid
    stretch = torch.zeros_like(stream.slots)
    if stream.branch is not None:
        stretch = stream.branch
    if stream.segment is not None:
        stretch = stretch + (stream.slots.shape[1] + 1) * stream.segment
    image = visual.image[stream.slots.clamp(min=0)]
    return torch.where(seen, image + (visual.image[-1] + 1) * stretch, -1)


def best(score: Float[Tensor, "B L"], group: Int[Tensor, "B L"], most: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The words, and of each group as many tokens as `most` says, the best first; of equals the earlier ones."""
    return (group < 0) | (ranks(group, score) < most)


def ranks(group: Int[Tensor, "B L"], score: Float[Tensor, "B L"] | None = None) -> Int[Tensor, "B L"]:
    """How many of its row's group come before each token: by their scores, the best first, or by their places."""
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    order = place if score is None else score.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    begins = group.gather(1, order).diff(dim=1, prepend=torch.full_like(group[:, :1], -2)) != 0
    first = torch.where(begins, place, 0).cummax(dim=1).values
    return torch.zeros_like(group).scatter(1, order, place - first)


def ends(group: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The last place of each token's group in its row."""
    length = group.shape[1]
    place = torch.arange(length, device=group.device).expand_as(group)
    order = group.argsort(dim=1, stable=True)
    final = group.gather(1, order).diff(dim=1, append=torch.full_like(group[:, :1], -2)) != 0
    last = torch.where(final, place, length).flip(1).cummin(dim=1).values.flip(1)
    return torch.zeros_like(group).scatter(1, order, order.gather(1, last))


def askers(stream: Stream, group: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The place from where an image's conversation is answered: its prompt's last, or the image's own last after that.

    What an answer says is not heard. For an image in a trunk it lies in the last of its branches.
    """
    own = ends(group)
    if stream.prompt is None:
        return own
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    asked = torch.where(stream.prompt, place, -1)
    segment, branch = stream.segment, stream.branch
    if segment is None and branch is None:
        return torch.maximum(asked.amax(1, keepdim=True), own)
    whole = _last(asked, torch.zeros_like(group) if segment is None else segment + 1)
    if branch is None:
        return torch.maximum(whole, own)
    return torch.maximum(torch.where(branch == 0, whole, _last(asked, stretches(stream))), own)


def speaking(group: Int[Tensor, "B L"], asked: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The places from where an answer begins."""
    length = group.shape[1]
    table = torch.zeros(len(group), length + 1, dtype=torch.bool, device=group.device)
    return table.scatter(1, torch.where(group >= 0, asked, length), True)[:, :length]


@torch.no_grad()
def attended(stream: Stream, asked: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """What the place from where each token's conversation is answered takes of it in the coming layer.

    Raises InputError where several conversations share an image.
    """
    if stream.branch is not None:
        raise InputError(
            "several questions about one image in a row would each keep other tokens; set group to false in the "
            "training stages, or keep tokens by another measure than attention"
        )
    assert stream.ahead is not None
    asking = torch.zeros_like(asked, dtype=torch.bool).scatter(1, asked, True)
    asks = None if stream.visual is None or stream.segment is not None else len(stream.visual.layout.counts) + 1
    at = places_of(asking, limit=asks).sort(dim=1).values
    shares = stream.ahead.shares(stream, at)  # type: ignore[operator]
    row = torch.searchsorted(at, asked)
    return shares.gather(1, row[:, None])[:, 0].float()


def stretches(stream: Stream) -> Int[Tensor, "B L"]:
    """Numbers from 0 for the runs of tokens of one segment and branch."""
    changes = torch.zeros_like(stream.slots)
    for part in (stream.segment, stream.branch):
        if part is not None:
            changes = changes | (part.diff(dim=1, prepend=part[:, :1]) != 0).long()
    return changes.cumsum(1)


def _last(asked: Int[Tensor, "B L"], key: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The greatest place that is asked from among the tokens of each one's key (-1: none)."""
    table = asked.new_full((len(asked), asked.shape[1] + 1), -1)
    return table.scatter_reduce(1, key, asked, "amax").gather(1, key)
