"""In which order examples are seen: a pure function of seed, stage and place, so that any place can be resumed."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from zlib import crc32

import numpy as np

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example, pictures
from foveal.training.config import Stage

OTHERS = "*"  # the kinds that are not named
_MOST = 2**28  # visits in an epoch, whose order takes 16 bytes each while it is made


def groups(data: Sequence[Example], *, shared: bool) -> list[tuple[int, ...]]:
    """Example numbers that are seen together: those on the same images where `shared`, else each by itself."""
    if not shared:
        return [(i,) for i in range(len(data))]
    found: OrderedDict[Hashable, list[int]] = OrderedDict()
    for i, example in enumerate(data):
        found.setdefault(pictures(example) or i, []).append(i)
    return [tuple(members) for members in found.values()]


def copies(data: Sequence[Example], kinds: Mapping[str, float], sources: Sequence[str] = ()) -> np.ndarray:
    """How often each example is seen in an epoch.

    Raises InputError for a kind or source that the data lack, and for weights of which no order can be made.
    """
    often = _by_kind(data, kinds) * _from_sources(data, sources)
    if not often.sum() <= _MOST:
        raise InputError(
            f"its kinds make an epoch of {often.sum():.3g} visits to {len(data):,} examples, and an order holds "
            f"{_MOST:,}; give smaller weights"
        )
    return often


def _from_sources(data: Sequence[Example], sources: Sequence[str]) -> np.ndarray:
    known = [str(example.meta.get("source", "")) for example in data]
    for source in sources:
        if source not in known:
            raise unknown("source in the data:", source, set(known) - {""})
    return np.array([float(not sources or source in sources) for source in known])


def _by_kind(data: Sequence[Example], kinds: Mapping[str, float]) -> np.ndarray:
    if not kinds:
        return np.ones(len(data))
    known = [str(example.meta.get("kind", "")) for example in data]
    for kind, weight in kinds.items():
        if weight and kind != OTHERS and kind not in set(known):
            raise unknown("kind in the data:", kind, set(known) - {""})
        if weight < 0:
            raise InputError(f"kind {kind!r} has weight {weight}; give 0 (never seen) or more")
    others = kinds.get(OTHERS, 1.0)
    return np.array([kinds.get(kind, others) for kind in known])


class Order:
    """The endless sequence of a stage's groups; each epoch has an order of its own.

    A group is visited as often in an epoch as its most frequent member is wanted (by systematic sampling, so within
    one of it); at a visit each member is drawn with what is left of its own frequency, and at most `limit` of them.
    """

    def __init__(
        self, groups: Iterable[tuple[int, ...]], copies: np.ndarray, *, seed: Sequence[int], limit: int | None = None
    ) -> None:
        self.groups = [group for group in groups if copies[list(group)].any()]
        if not self.groups:
            raise InputError("no example is left to train on; check the data and the weights of its kinds")
        self.copies, self.seed, self.limit = copies, tuple(seed), limit
        self.visits = np.array([copies[list(group)].max() for group in self.groups])
        self.length = max(1, round(float(self.visits.sum())))
        self.epochs: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """Visits in an epoch."""
        return self.length

    def at(self, place: int) -> tuple[int, ...]:
        """The example numbers of the group at a place of the sequence."""
        epoch, offset = divmod(place, self.length)
        number = self._epoch(epoch)[offset]
        return self._drawn(self.groups[number], float(self.visits[number]), place)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self.epochs:
            chance = np.random.default_rng([*self.seed, 0, epoch])
            ends = np.floor(np.cumsum(self.visits) * (self.length / self.visits.sum()) + chance.random() + 1e-9)
            counts = np.diff(ends, prepend=0).astype(int)
            self.epochs[epoch] = chance.permutation(np.repeat(np.arange(len(self.groups)), counts))[: self.length]
            while len(self.epochs) > 2:
                self.epochs.popitem(last=False)
        return self.epochs[epoch]

    def _drawn(self, members: tuple[int, ...], visits: float, place: int) -> tuple[int, ...]:
        wanted = self.copies[list(members)] / visits
        chosen = np.array(members)
        if (wanted == 1).all() and (self.limit is None or len(members) <= self.limit):
            return members
        chance = np.random.default_rng([*self.seed, 1, place])
        chosen = chosen[chance.random(len(members)) < wanted]
        if self.limit is not None and len(chosen) > self.limit:
            chosen = chosen[np.sort(chance.permutation(len(chosen))[: self.limit])]
        return tuple(chosen.tolist())


def order_of(stage: Stage, data: Sequence[Example], *, seed: int) -> Order:
    """The order in which a stage sees its groups; takes the errors of `copies` and of `Order`."""
    return Order(
        groups(data, shared=stage.group),
        copies(data, stage.kinds, stage.sources),
        seed=(seed, crc32(stage.name.encode())),  # the same where another stage is left out
        limit=stage.group_limit,
    )
