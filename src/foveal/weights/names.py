"""Names of weights: between a reference's state dict and ours, both ways, and strictly into a module.

A rule is a pair (ours, theirs) of patterns in which `*` stands for one part of a dotted name and `**` for one or more:
`("blocks.*.norm.*", "encoder.layers.*.layer_norm.*")`. The first rule that matches a name decides.
- `theirs` may be several spellings: all are read, the first is written.
- `ours` may be several patterns: their one weight is ours stacked along the first axis, in equal parts (a fused QKV).
- `ours` may be None: a weight that old checkpoints carry and nobody needs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.weights.shelf import ALIGNED, Shelf, room

Rule = tuple[str | tuple[str, ...] | None, str | tuple[str, ...]]
Change = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # of a weight of theirs to ours, and back

_WILDCARD = re.compile(r"\*\*|\*")
_NAMED = 8  # an error names so many weights of a kind


def prefixed(rules: Iterable[Rule], *, ours: str = "", theirs: str | tuple[str, ...] = "") -> list[Rule]:
    """The rules with a prefix before each pattern; of several prefixes of theirs, the first is written."""
    return [
        (
            None if mine is None else _joined((ours,), _several(mine)) if isinstance(mine, tuple) else ours + mine,
            _joined(_several(theirs), _several(yours)),
        )
        for mine, yours in rules
    ]


def _several(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return given if isinstance(given, tuple) else (given,)


def _joined(prefixes: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix + pattern for pattern in patterns for prefix in prefixes)


class Renaming:
    """Two-way renaming of state dicts by rules; reads every accepted spelling, writes the canonical one.

    Their weights of the names in `leading` have so many axes of length 1 before those of ours. Of those in `parted`
    all rows from a number on stand under another name of theirs. Ours of the patterns `lacking` have no place there:
    they are zero. Theirs of the patterns in `changed` hold the same in other numbers: changed before a stack is parted,
    and back once it is whole.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        leading: Mapping[str, int] | None = None,
        parted: Mapping[str, tuple[int, str]] | None = None,
        lacking: Iterable[str] = (),
        changed: Mapping[str, Change] | None = None,
    ) -> None:
        self.rules = [_compiled(rule) for rule in rules]
        self.leading, self.parted = dict(leading or {}), dict(parted or {})
        self.lacking = [_Pattern(text) for text in lacking]
        self.changed = [(_Pattern(text), change) for text, change in (changed or {}).items()]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict in our names; raises InputError for a name without a rule or given in two spellings."""
        ours, strange = self.read(state)
        if strange:
            raise InputError(f"no rule for {_listed(strange)}; the checkpoint is of another kind or version")
        return ours

    def read(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Their state dict in our names, and the names that no rule knows."""
        ours: dict[str, Tensor] = {}
        came_from: dict[str, str] = {}
        strange = []
        for name, weight in self._joined(state).items():
            targets = self._targets(name)
            if targets is None:
                strange.append(name)
                continue
            weight = self._change(name)[0](self._bare(name, weight))
            for target, part in zip(targets, _parts(name, weight, len(targets)), strict=True):
                if target in ours:
                    raise InputError(f"{came_from[target]} and {name} are two spellings of one weight; keep one")
                ours[target], came_from[target] = part, name
        return ours, strange

    def once(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict without the weights that come, equal, in a second spelling: one that a reference ties."""
        first: dict[tuple[str, ...], Tensor] = {}
        kept = {}
        for name, weight in state.items():
            before = first.setdefault(found, weight) if (found := self._targets(name)) else weight
            if before is weight or not _equal(before, weight):
                kept[name] = weight
        return kept

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict in their names; raises InputError for a name without a rule or an incomplete stack."""
        theirs: dict[str, Tensor] = {}
        strange = []
        for name in state:
            if self.lacks(name):
                if state[name].any():
                    raise InputError(f"{name} is not zero, and their format has no place for it; leave it untrained")
                continue
            found = self._source(name)
            if found is None:
                strange.append(name)
                continue
            source, parts = found
            if source in theirs:
                continue
            absent = [part for part in parts if part not in state]
            if absent:
                raise InputError(f"{source} is {_listed(parts)} stacked, but {_listed(absent)} is not there")
            weight = state[name] if len(parts) == 1 else torch.cat([state[part] for part in parts])
            weight = self._change(source)[1](weight)
            theirs[source] = weight[(None,) * self.leading.get(source, 0)] if source in self.leading else weight
        if strange:
            raise InputError(
                f"no rule for {_listed(strange)}: such a model has no place in their format; write it as a run, which "
                "keeps all of it"
            )
        for name, (rows, rest) in self.parted.items():
            if name in theirs:
                theirs[name], theirs[rest] = theirs[name][:rows], theirs[name][rows:]
        return theirs

    def lacks(self, name: str) -> bool:
        """Whether one of our weights has no place in their format, where it is zero."""
        return any(pattern.match(name) is not None for pattern in self.lacking)

    def spell(self, name: str) -> str:
        """Their canonical name for one of ours (ours where no rule knows it), as messages want it."""
        return self._ways(name)[0]

    def speller(self, state: Iterable[str]) -> Callable[[str], str]:
        """The same for a checkpoint of these names: as it spells a weight, or would one that it lacks."""

        @cache
        def known() -> tuple[dict[str, str], set[str]]:
            came_from = {target: name for name in state for target in self._targets(name) or ()}
            return came_from, {stem for name in state for stem in _stems(name)}

        def spell(name: str) -> str:
            came_from, stems = known()
            found = came_from.get(name)
            if found is not None:
                return found
            ways = self._ways(name)  # of equals the first
            return max(ways, key=lambda way: sum(stem in stems for stem in _stems(way)))

        return spell

    def _ways(self, name: str) -> list[str]:
        """All their spellings of one of ours, the canonical first; ours where no rule knows it."""
        for ours, theirs in self.rules:
            for pattern in ours:
                parts = pattern.match(name)
                if parts is not None:
                    return [way.fill(parts) for way in theirs]
        return [name]

    def _joined(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        joined = dict(state)
        for name, (_, rest) in self.parted.items():
            if name in joined and rest in joined and joined[name].shape[1:] == joined[rest].shape[1:]:
                joined[name] = torch.cat([joined[name], joined.pop(rest)])
        return joined

    def _bare(self, name: str, weight: Tensor) -> Tensor:
        axes = self.leading.get(name, 0)
        return weight.reshape(weight.shape[axes:]) if set(weight.shape[:axes]) == {1} else weight

    def _change(self, name: str) -> Change:
        return next((change for pattern, change in self.changed if pattern.match(name) is not None), (_same, _same))

    def _targets(self, name: str) -> tuple[str, ...] | None:
        for ours, theirs in self.rules:
            for pattern in theirs:
                parts = pattern.match(name)
                if parts is not None:
                    return tuple(target.fill(parts) for target in ours)
        return None

    def _source(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        for ours, theirs in self.rules:
            for pattern in ours:
                parts = pattern.match(name)
                if parts is not None:
                    return theirs[0].fill(parts), tuple(part.fill(parts) for part in ours)
        return None


class _Pattern:
    def __init__(self, text: str) -> None:
        self.literals = _WILDCARD.split(text)
        self.wildcards = _WILDCARD.findall(text)
        gaps = [".+" if wildcard == "**" else "[^.]+" for wildcard in self.wildcards]
        pairs = zip(self.literals, [*gaps, ""], strict=True)
        self.regex = re.compile("".join(re.escape(literal) + (f"({gap})" if gap else "") for literal, gap in pairs))

    def match(self, name: str) -> tuple[str, ...] | None:
        found = self.regex.fullmatch(name)
        return found.groups() if found else None

    def fill(self, parts: Sequence[str]) -> str:
        return "".join(literal + part for literal, part in zip(self.literals, [*parts, ""], strict=True))


def _stems(name: str) -> list[str]:
    """The beginnings of a dotted name."""
    return [name[:place] for place, letter in enumerate(name) if letter == "."]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _same(weight: Tensor) -> Tensor:
    return weight


def _compiled(rule: Rule) -> tuple[list[_Pattern], list[_Pattern]]:
    mine, yours = rule
    ours = [_Pattern(text) for text in ([] if mine is None else _several(mine))]
    theirs = [_Pattern(text) for text in _several(yours)]
    kinds = {tuple(pattern.wildcards) for pattern in (*ours, *(theirs if ours else ()))}
    if len(kinds) > 1 or not theirs:
        raise ValueError(f"the patterns of the rule {rule!r} have different wildcards")
    return ours, theirs


def _parts(name: str, weight: Tensor, count: int) -> list[Tensor]:
    if count < 2:
        return [weight] * count
    if weight.ndim == 0 or weight.shape[0] % count:
        raise InputError(f"{name} {_shape(weight)} is {count} weights stacked; its first axis must divide by {count}")
    return [part.clone() for part in weight.chunk(count)]


def whole(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state with weights whose length was kept apart (1602.07868, of all numbers together) whole; their names."""
    joined, names = dict(state), []
    for name in state:
        stem = name.removesuffix("_v")
        if stem != name and f"{stem}_g" in state:
            way = joined.pop(name)
            joined[stem] = way * (joined.pop(f"{stem}_g") / way.norm())
            names.append(stem)
    return joined, tuple(names)


def apart(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The inverse of `whole`: way and length of the weights of these names."""
    parted = dict(state)
    for name in names:
        weight = parted.pop(name)
        parted |= {f"{name}_v": weight, f"{name}_g": weight.norm()}
    return parted


def mixed(state: Mapping[str, Tensor]) -> torch.dtype | None:
    """The dtype of most numbers where floating weights come in several; None where they have one."""
    counts: dict[torch.dtype, int] = {}
    for weight in state.values():
        if weight.is_floating_point():
            counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    return max(counts, key=lambda kind: counts[kind]) if len(counts) > 1 else None


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    *,
    renaming: Renaming | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Put exactly these weights into `module`, which may stand on the meta device; tied weights stay tied.

    `state` has their names where a `renaming` is given. `dtype` casts floating weights (default: as they come; those of
    a reference that come in several dtypes take that of most). A tied weight may come under one of its names or all, in
    one spelling or, equal, in several. Buffers outside the state dict must not be on the meta device: make them with
    `device="cpu"`. Raises InputError that names `where` and each missing, unexpected or mis-shaped weight as the file
    spells it, and each that holds no fractions.
    """
    given, strange = (dict(state), []) if renaming is None else renaming.read(renaming.once(state))
    spell = renaming.speller(state) if renaming is not None else str
    wanted = module.state_dict(keep_vars=True)
    if renaming is not None:
        kind = next((weight.dtype for weight in given.values() if weight.is_floating_point()), None)
        lacked = [name for name in wanted if renaming.lacks(name)]
        given |= {name: torch.zeros(wanted[name].shape, dtype=kind) for name in lacked}
    tied = _tied(wanted)
    faults = {
        "missing": [spell(names[0]) for names in tied if not any(name in given for name in names)],
        "unexpected": [*strange, *(spell(name) for name in given if name not in wanted)],
        "mis-shaped": [
            f"{spell(name)} {_shape(given[name])} where {_shape(tensor)} belongs"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
        "of whole numbers": [
            f"{spell(name)} of {str(given[name].dtype).removeprefix('torch.')}"
            for name, tensor in wanted.items()
            if name in given and tensor.is_floating_point() and not given[name].is_floating_point()
        ],
        "tied by the config but different": [
            " and ".join(spell(name) for name in names) for names in tied if _differ(given, names)
        ],
    }
    told = "; ".join(f"{kind}: {_listed(list(dict.fromkeys(names)))}" for kind, names in faults.items() if names)
    if told:
        raise InputError(f"{where}: {told}; give the checkpoint that belongs to the config")
    dtype = mixed(given) if dtype is None and renaming is not None else dtype
    _assign(module, wanted, given, tied, dtype=dtype, device=device)


def _tied(wanted: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each weight, together."""
    groups: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def _differ(given: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    there = [given[name] for name in names if name in given]
    return any(a.shape == b.shape and not torch.equal(a, b) for a, b in pairwise(there))


def _assign(
    module: nn.Module,
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    tied: Iterable[Sequence[str]],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> None:
    filled: dict[str, Tensor] = {}
    values = {tuple(names): next(given[name] for name in names if name in given) for names in tied}
    kinds = {
        names: (dtype or value.dtype) if value.is_floating_point() else value.dtype for names, value in values.items()
    }
    # weights may lie anywhere, and other places give other last bits
    moved = {
        names
        for names, value in values.items()
        if torch.device(device or value.device).type == "cpu"
        and (kinds[names] != value.dtype or value.device.type != "cpu" or value.data_ptr() % ALIGNED)
    }
    shelf = Shelf(sum(room(values[names].numel(), kinds[names]) for names in moved))
    for names, value in values.items():
        kind = kinds[names]
        value = shelf.put(value, kind) if names in moved else value.to(device=device, dtype=kind)
        like = wanted[names[0]]
        if isinstance(like, nn.Parameter):
            value = nn.Parameter(value.detach(), requires_grad=like.requires_grad)
        filled.update(dict.fromkeys(names, value))
    module.load_state_dict(filled, assign=True)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                raise ValueError(f'buffer {name} of {type(part).__name__} holds nothing; make it with device="cpu"')
            if device is not None:
                part._buffers[name] = buffer.to(device)


def _shape(weight: Tensor) -> str:
    return f"[{' '.join(str(size) for size in weight.shape)}]"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
