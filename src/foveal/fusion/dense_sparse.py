"""Visual tokens thin out with depth: all are read by the first layers, few by the last (FastV, 2403.06764; PyramidDrop,
2410.17247)."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import in_line
from foveal.core.lookup import build, spec
from foveal.core.types import Batch, Layout, Stream, VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.norms import RMSNorm
from foveal.layers.thinning import askers, attended, ends, groups, leave, ranks, stretches

Schedule = Literal["none", "step", "linear", "exponential"]
Selector = Literal["learned", "attention", "norm", "random", "uniform", "relevance"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The layers are parted into stages, and `keep` says how much of each image they see: up to 1 the share of its
    tokens, above 1 their number.

    `step` keeps what is listed, a stage each. `linear` and `exponential` go in `stages` steps from the first that is
    listed to the last, by equal differences or equal ratios; `none` keeps all. Stages are of equal depth, or the second
    and later ones begin before the `layers` named.

    Tokens are chosen `by` a `learned` score of their states (through `inner` units), the `attention` that the end of
    the prompt would pay them in the coming layer, the `norm` of their states, at `random` (out of a `seed`, alike for
    all images), `uniform` distances, or their `relevance` to the question: what the tokens bring, else what the
    model's allocator sees. Images enter by the fusion `over`, in whose slots they stand: `prefix` or `deepstack`.
    """

    schedule: Schedule = "step"
    keep: tuple[float, ...] = (1.0, 0.5, 0.25)
    stages: int = 3
    layers: tuple[int, ...] | None = None
    by: Selector = "learned"
    inner: int = 64
    seed: int = 0
    over: str | dict[str, Any] = "prefix"


class DenseSparse(nn.Module):
    """Before each stage but the first, tokens leave the stream `[B L D]`; positions, and who sees whom, stay.

    Nothing but the prompt steers what leaves, and the place from where an answer begins stays. Raises InputError for a
    schedule that does not fit the depth or grows, and for a fusion whose images do not stand in the text.
    """

    causal = True
    thins = True

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        schedule: Schedule = "step",
        keep: Sequence[float] = (1.0, 0.5, 0.25),
        stages: int = 3,
        layers: Sequence[int] | None = None,
        by: Selector = "learned",
        inner: int = 64,
        seed: int = 0,
        over: str | Mapping[str, Any] = "prefix",
    ) -> None:
        super().__init__()
        self.over = build("fusion", spec("fusion", over), width=width, depth=depth)
        _check(self.over)
        shares = scheduled(schedule, keep, stages)
        begins = stages_of(len(shares), depth, None if schedule == "none" else layers)
        self.depth, self.by, self.seed = depth, by, seed
        self.cuts = {begin: share for begin, share in zip(begins, shares, strict=True) if share != 1}
        learned = by == "learned"
        self.scorers = nn.ModuleDict({str(at): Scorer(width=width, inner=inner) for at in self.cuts if learned})
        self.way: tuple[float, str] | None = None  # what `at_sparsity` was told; None: the plan
        self.seen: tuple[float, ...] = ()

    @property
    def levels(self) -> int:
        """How many of the encoder's levels the fusion of its images reads."""
        return getattr(self.over, "levels", 0)

    @property
    def reads_relevance(self) -> bool:
        """Whether it wants to know what each visual token is worth."""
        return self.by == "relevance" and bool(self.cuts)

    @property
    def asks_ahead(self) -> bool:
        """Whether it asks each layer before it speaks."""
        return self.by == "attention" and bool(self.cuts)

    @property
    def hears_later(self) -> bool:
        """Whether what follows an image changes how it is read: its rows cannot share what they have read of it."""
        return bool(self.cuts)

    def by_layer(self, layout: Layout) -> tuple[tuple[int, ...], ...]:
        """How many tokens of each image each layer sees: known from the layout alone."""
        counts, seen = layout.counts, []
        for index in range(self.depth):
            if index in self.cuts:
                counts = tuple(map(min, counts, self._left(index, layout)))
            seen.append(counts)
        return tuple(seen)

    def at_sparsity(self, done: float | None, curve: str = "linear") -> None:
        """Be told how much of the way from all tokens (0) to the plan (1) lies behind, and along which curve it goes.

        None: the plan, as if nobody had told.
        """
        self.way = None if done is None else (done, curve)
        self.seen = self.seen if self.way else ()

    def told(self) -> dict[str, float]:
        """On the way to the plan, how many tokens of an image each layer saw in the last batch, on average."""
        return {f"tokens_layer_{index}": count for index, count in enumerate(self.seen)}

    def at_words(self, batch: Batch, visual: VisualTokens | None) -> Batch:
        """The words that the fusion of the images makes of them, such as marks."""
        over = getattr(self.over, "at_words", None)
        return batch if over is None else over(batch, visual)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """The images enter as by the fusion that this one is over."""
        stream = self.over.at_input(stream, visual)
        if not self.cuts or visual is None or visual.features.shape[0] == 0:
            return stream
        if self.way is not None:
            self.seen = tuple(sum(counts) / len(counts) for counts in self.by_layer(visual.layout))
        return replace(stream, visual=visual)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Where a stage begins, the tokens that are left; after the fusion of the images had its turn."""
        stream = self.over.at_layer(index, stream)
        if index not in self.cuts or stream.visual is None:
            return stream
        group = groups(stream, stream.visual)
        seen = self.by_layer(stream.visual.layout)
        image = stream.visual.image[stream.slots.clamp(min=0)]
        most = torch.tensor(seen[index], device=group.device)[image]
        asked = askers(stream, group)
        score = self._score(index, stream, group, most, asked)
        if score.requires_grad:
            stream = _through(stream, score, group >= 0)
        return leave(stream, score.detach(), seen, group=group, asked=asked, layer=index)

    def _left(self, index: int, layout: Layout) -> list[int]:
        """How many tokens of each image layer `index` leaves."""
        done, curve = self.way or (1.0, "linear")
        return [between(count, kept(count, self.cuts[index]), done, curve) for count in layout.counts]

    def _score(
        self, index: int, stream: Stream, group: Int[Tensor, "B L"], most: Int[Tensor, "B L"], asked: Int[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """What each visual token is worth before this layer; what is said of words does not matter."""
        visual, at = stream.visual, stream.slots.clamp(min=0)
        assert visual is not None
        if self.by == "learned":
            return self.scorers[str(index)](stream.hidden.detach())
        if self.by == "attention":
            return attended(stream, asked)
        if self.by == "norm":
            return stream.hidden.detach().float().norm(dim=-1)
        if self.by == "relevance":
            if visual.relevance is None:
                raise InputError(
                    "visual tokens without relevance for a fusion that keeps tokens by theirs; give it them"
                )
            return visual.relevance.detach().float()[at]
        if self.by == "random":
            begins = torch.tensor(visual.layout.offsets[:-1], device=at.device)
            drawn = _drawn(self.seed + index, max(visual.layout.counts))
            return torch.tensor(drawn, device=at.device)[at - begins[visual.image[at]]]
        rank = ranks(group)
        size = rank.gather(1, ends(group)) + 1
        return ((rank + 1) * most // size > rank * most // size).float()


class Scorer(nn.Module):
    """A score for each state `[B L D]`, through one hidden layer."""

    def __init__(self, *, width: int, inner: int) -> None:
        super().__init__()
        self.norm, self.up = RMSNorm(width, eps=1e-5), Linear(width, inner)
        self.down = Linear(inner, 1, bias=False)  # what is added to all scores alike chooses nothing
        self.apply(small_normal)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B L"]:
        """Norm, up, activate, down."""
        return self.down(F.gelu(self.up(self.norm(hidden))))[..., 0].float()


def scheduled(schedule: Schedule, keep: Sequence[float], stages: int) -> tuple[float, ...]:
    """What each stage keeps; raises InputError for a schedule of nothing, of no number, or that grows."""
    if schedule == "none":
        return (1.0,)
    wrong = [one for one in keep if not 0 < one < math.inf or (one > 1 and one != int(one))]
    if wrong or not keep:
        raise InputError(f"fusion.keep is {list(keep)}; give shares from 0 to 1, or whole numbers of tokens above 1")
    if schedule == "step":
        shares = tuple(keep)
    else:
        first, last = keep[0], keep[-1]
        if stages < 2 or (first > 1) != (last > 1):
            raise InputError(
                f"a {schedule} schedule from {first:g} to {last:g} in {stages} stages; give two shares or two numbers "
                "of tokens as fusion.keep, and at least 2 stages"
            )
        way = [i / (stages - 1) for i in range(stages)]
        linear = schedule == "linear"
        shares = tuple(first + (last - first) * t if linear else first * (last / first) ** t for t in way)
    for before, after in pairwise(shares):
        if after > before and (before > 1 or after <= 1):
            raise InputError(f"fusion.keep grows from {before:g} to {after:g}; tokens that have left do not come back")
        if after == 1 < before:
            raise InputError(
                f"fusion.keep goes from {before:g} tokens to 1, which is the share of all; give 2 or more, or a share "
                "below 1"
            )
    return shares


def stages_of(count: int, depth: int, layers: Sequence[int] | None = None) -> tuple[int, ...]:
    """The layer before which each stage begins; raises InputError where the stages do not fit the layers."""
    if count > depth:
        raise InputError(f"{count} stages for {depth} layers; let fusion.keep, or fusion.stages, name fewer")
    if layers is None:
        return tuple(depth * i // count for i in range(count))
    begins = (0, *layers)
    if len(begins) != count or any(after <= before for before, after in pairwise(begins)) or begins[-1] >= depth:
        raise InputError(
            f"fusion.layers {tuple(layers)} for {count} stages of {depth} layers; name where each but the first "
            f"begins, {count - 1} layers in order from 1 to {depth - 1}"
        )
    return begins


def kept(count: int, share: float) -> int:
    """How many of an image's tokens are left: one at least."""
    wanted = int(share) if share > 1 else max(1, int(share * count + 0.5))
    return min(count, count if share == 1 else wanted)


def between(count: int, last: int, done: float, curve: str) -> int:
    """How many of `count` tokens are left where so much of the way to the `last` number of them lies behind."""
    ratio = curve == "exponential"
    left = count * (last / max(1, count)) ** done if ratio else count + (last - count) * done
    return last if done >= 1 else max(last, int(left + 0.5))


def _check(over: Any) -> None:
    if not in_line(over) or not over.causal:
        raise InputError(
            f"dense_sparse over {type(over).__name__}, whose images do not stand in the text as tokens of their own; "
            "take prefix or deepstack as fusion.over"
        )


def _through(stream: Stream, score: Float[Tensor, "B L"], seen: Bool[Tensor, "B L"]) -> Stream:
    """The same states, through which the scores learn as if tokens took the mean of their conversation's by score.

    What leaves and what stays both hear of it; to all other parts the gradient is that of the tokens that stay.
    """
    packed = stream.segment is not None or stream.branch is not None
    key = stretches(stream) if packed else torch.zeros_like(stream.slots)
    size, state = key.shape[1] if packed else 1, stream.hidden.detach()
    score = score.masked_fill(~seen, torch.finfo(score.dtype).min)
    table = score.new_full((len(score), size), torch.finfo(score.dtype).min)
    top = table.scatter_reduce(1, key, score.detach(), "amax")
    weight = (score - top.gather(1, key)).exp() * seen
    total = torch.zeros_like(table).scatter_add(1, key, weight).gather(1, key)
    share = weight / total.clamp(min=torch.finfo(score.dtype).tiny)
    spots = key[..., None].expand_as(state)
    weighed = share[..., None] * state
    pooled = weighed.new_zeros(len(score), size, state.shape[2]).scatter_add(1, spots, weighed)
    mean = pooled.gather(1, spots).to(state.dtype)
    return stream.with_hidden(torch.where(seen[..., None], stream.hidden + (mean - mean.detach()), stream.hidden))


@lru_cache(maxsize=32)
def _drawn(seed: int, count: int) -> tuple[float, ...]:
    """Numbers of a seed, of which the first are the same however many are drawn."""
    chance = random.Random(seed)
    return tuple(chance.random() for _ in range(count))
