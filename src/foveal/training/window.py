"""The running means of a log entry, and the alarm when a loss is no number."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from foveal.core.errors import InputError
from foveal.training.step import Taken

_SUMS = ("loss", "count", "norm", "steps", "tokens", "examples")
_KEPT = (*_SUMS, "passed")


class Window:
    """Sums over the steps since the last entry; the newest `lag` steps are read later (an accelerator runs ahead).

    A step that counts nothing is in no mean; `passed` are such steps in a row, of which `most` are too many.
    """

    def __init__(self, *, lag: int, most: int = 1) -> None:
        self.lag, self.most, self.passed = lag, most, 0
        self.waiting: deque[tuple[Taken, Callable[[], str]]] = deque()
        self.clear()

    def clear(self) -> None:
        """Begin again; steps that wait are not lost."""
        self.loss = self.count = self.norm = 0.0
        self.steps = self.tokens = self.examples = 0
        self.parts: dict[str, tuple[float, float]] = {}
        self.since = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What has been read since it was cleared, as JSON holds it."""
        return {**{name: getattr(self, name) for name in _KEPT}, "parts": self.parts, "seconds": self.spent()}

    def put(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; an empty one (of a checkpoint that has none) leaves it as it is."""
        for name in _KEPT:
            setattr(self, name, state.get(name, getattr(self, name)))
        self.parts = {name: (part, of) for name, (part, of) in state.get("parts", self.parts).items()}
        self.since -= state.get("seconds", 0.0)

    def spent(self) -> float:
        """Seconds since it was cleared."""
        return time.monotonic() - self.since

    def add(self, taken: Taken, where: Callable[[], str], *, tokens: int, examples: int) -> None:
        """Count a step; `where` names it in the error that a loss which is no number raises."""
        self.tokens, self.examples = self.tokens + tokens, self.examples + examples
        self.waiting.append((taken, where))
        self.read(leave=self.lag)

    def read(self, *, leave: int = 0) -> None:
        """Read all but the newest `leave` steps.

        Raises InputError for a loss that is not finite, and for too many steps that count nothing.
        """
        while len(self.waiting) > leave:
            taken, where = self.waiting.popleft()
            named = [number for pair in taken.parts.values() for number in pair]
            numbers = [taken.loss, taken.count, taken.norm, *named]
            loss, count, norm, *rest = torch.stack([number.to(taken.loss) for number in numbers]).tolist()
            if not count:
                self.passed += 1
                if self.passed >= self.most:
                    self.refuse(where)
                continue
            self.passed = 0
            if not (math.isfinite(loss) and math.isfinite(norm)):
                value = loss / count if not math.isfinite(loss) else norm
                what = "loss" if not math.isfinite(loss) else "gradient"
                raise InputError(
                    f"{where()}: the {what} is {value}; lower the learning rate or the clip, or look at these data"
                )
            self.loss, self.count, self.norm = self.loss + loss, self.count + count, self.norm + norm
            self.steps += 1
            for name, part, of in zip(taken.parts, rest[::2], rest[1::2], strict=True):
                before = self.parts.get(name, (0.0, 0.0))
                self.parts[name] = (before[0] + part, before[1] + of)

    def refuse(self, where: Callable[[], str]) -> NoReturn:
        """Raise InputError: nothing was counted for so many steps."""
        raise InputError(
            f"{where()}: no token carries a loss, nor does anything else, in {self.passed} steps up to this one; look "
            "whether the data hold what the objective learns from (answers, boxes), or take another objective"
        )

    def means(self) -> tuple[float, float, dict[str, float]]:
        """Mean loss, mean gradient norm, and the mean of each named part."""
        named = {name: part / of for name, (part, of) in self.parts.items() if of}
        return self.loss / max(self.count, 1e-12), self.norm / max(1, self.steps), named
