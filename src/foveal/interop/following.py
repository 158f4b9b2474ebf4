"""Caches of transformers whose rows move, and with them what was left with each row.

A cache becomes one of a class of its own kind, and holds nothing that holds it: it goes when its last user lets go.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from foveal.core.errors import InputError
from foveal.interop.pictures import ANEW

SEEN = "foveal_seen"  # what is left with a cache, which copies of it take along
_OPEN = "foveal_open"  # while a compressed model reads a cache, which another would misread


class _Rows:
    """What stands before a class of caches: its moves of rows, followed by what was left with these."""

    kind: type

    def update(self, *arguments: Any, **named: Any) -> Any:
        if hasattr(self, SEEN) and not hasattr(self, _OPEN):
            if self.get_seq_length() > 0:  # type: ignore[attr-defined]
                raise InputError(
                    f"a cache that foveal.compress cut, and a model that is not compressed to read it; {ANEW}, or "
                    "compress the model again"
                )
            forget(self)
            return self.update(*arguments, **named)  # as of its own kind
        return super().update(*arguments, **named)  # type: ignore[misc]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        _moved(self, lambda valid: valid[beam_idx.to(valid.device)])

    def batch_select_indices(self, indices: Any) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        _moved(self, lambda valid: valid[indices.to(valid.device) if isinstance(indices, Tensor) else indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        _moved(self, lambda valid: valid.repeat_interleave(repeats, dim=0))

    def __reduce_ex__(self, protocol: Any) -> Any:
        _, _, *state = super().__reduce_ex__(max(2, protocol))  # the class is made anew from its kind
        return (_fresh, (self.kind,), *state)


def follow(held: Any) -> None:
    """Let what was left with a cache follow its rows from now on."""
    if not isinstance(held, _Rows):
        held.__class__ = _following(type(held))


def forget(held: Any) -> None:
    """Leave a cache as it was made, with nothing left with it."""
    delattr(held, SEEN)
    if isinstance(held, _Rows):
        held.__class__ = held.kind


def opened(held: Any) -> Any:
    """The cache, which may be read from now on."""
    setattr(held, _OPEN, True)
    return held


def shut(held: Any) -> None:
    """Refuse a cache that was opened (None: none was) to whatever is not compressed."""
    if hasattr(held, _OPEN):
        delattr(held, _OPEN)


@cache
def _following(kind: type) -> type:
    return type(kind.__name__, (_Rows, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__, "kind": kind})


def _fresh(kind: type) -> Any:
    return object.__new__(_following(kind))


def _moved(held: Any, chosen: Callable[[Tensor], Tensor]) -> None:
    if (seen := getattr(held, SEEN, None)) is not None:
        setattr(held, SEEN, seen.of_rows(chosen))
