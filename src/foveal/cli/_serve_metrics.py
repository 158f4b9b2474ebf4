"""What `foveal serve` counts of its requests, in the text that Prometheus reads."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate
from typing import Literal

from foveal.cli._serve_told import Ended

KIND = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "foveal_requests_open"  # what an autoscaler follows
OUTCOMES = ("answered", "refused", "busy", "failed", "left")
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One family of numbers: each by what follows the name (`_total`, `_bucket` ...) and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    about: str
    numbers: tuple[tuple[str, Mapping[str, str], int | float], ...]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests that have a place, those of them that wait in line, and those that are being answered."""

    open: int
    waiting: int
    answering: int


class Counts:
    """How requests ended since the server began; any thread may tell it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._slots = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0

    def ended(self, outcome: str) -> None:
        """One more request has ended otherwise than with an answer."""
        with self._lock:
            self._outcomes[outcome] += 1

    def answered(self, told: Ended, *, budget: int | None, seconds: float) -> None:
        """One more was answered, so long after it was read."""
        usage = told.usage
        with self._lock:
            self._outcomes["answered"] += 1
            self._tokens["visual"] += told.answer.visual_tokens
            self._tokens["prompt"] += usage["prompt_tokens"]
            self._tokens["answer"] += usage["completion_tokens"]
            self._tokens["budgets"] += budget is not None
            self._tokens["budget"] += budget or 0
            self._slots[bisect_left(SECONDS, seconds)] += 1
            self._seconds += seconds

    def metrics(self, load: Load) -> Iterator[Metric]:
        """All that is told, with the load of this moment."""
        with self._lock:
            outcomes, tokens, slots, seconds = self._outcomes.copy(), self._tokens.copy(), [*self._slots], self._seconds
        for name, about in (
            ("open", "Requests that are read, wait or are answered."),
            ("waiting", "Requests that wait for the model."),
            ("answering", "Requests that the model is answering."),
        ):
            number = getattr(load, name)
            yield Metric(name=f"foveal_requests_{name}", kind="gauge", about=about, numbers=(("", {}, number),))
        ways = tuple(("_total", {"outcome": one}, outcomes[one]) for one in OUTCOMES)
        yield Metric(name="foveal_requests", kind="counter", about="Requests by how they ended.", numbers=ways)
        for name, about in (
            ("visual", "Visual tokens that entered the language model."),
            ("prompt", "Tokens of prompts, visual ones where they stand in the text."),
            ("answer", "Tokens that were written."),
        ):
            total = (("_total", {}, tokens[name]),)
            yield Metric(name=f"foveal_{name}_tokens", kind="counter", about=about, numbers=total)
        asked = (("_sum", {}, tokens["budget"]), ("_count", {}, tokens["budgets"]))
        told = "Budgets of visual tokens an image that requests asked for."
        yield Metric(name="foveal_budget_tokens", kind="summary", about=told, numbers=asked)
        yield _histogram("foveal_answer_seconds", "From a request's last byte to its answer's.", slots, seconds)


def outcome(status: HTTPStatus) -> str:
    """How a request that was not answered has ended."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "busy"
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"


def exposition(metrics: Iterator[Metric]) -> str:
    """Metrics in the text format 0.0.4."""
    lines = []
    for metric in metrics:
        # in this format a counter is declared by the name that its numbers have
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        lines += [f"# HELP {name} {metric.about}", f"# TYPE {name} {metric.kind}"]
        for end, labels, value in metric.numbers:
            named = ",".join(f'{label}="{one}"' for label, one in labels.items())
            lines.append(f"{metric.name}{end}{f'{{{named}}}' if named else ''} {value}")
    return "\n".join([*lines, ""])


def _histogram(name: str, about: str, slots: list[int], total: float) -> Metric:
    """A histogram, each of whose buckets holds those before it."""
    *upto, count = accumulate(slots)
    buckets = [("_bucket", {"le": f"{edge:g}"}, number) for edge, number in zip(SECONDS, upto, strict=True)]
    whole = (*buckets, ("_bucket", {"le": "+Inf"}, count), ("_sum", {}, total), ("_count", {}, count))
    return Metric(name=name, kind="histogram", about=about, numbers=whole)
