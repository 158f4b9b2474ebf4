"""The model `foveal` of lmms-eval (2407.12772): `lmms-eval --model foveal --model_args pretrained=RUN`."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

import foveal
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.interop.lmms import asked, checked, count, drawn, losses, replies, stops

LONGEST = 256  # new tokens, where a task does not say


class Foveal(lmms):
    """A run or a checkpoint, as lmms-eval asks it: pictures and a text in, text or losses out.

    Raises InputError for a budget or batch size that is no whole number of 1 or more; takes the errors of `budgeted`.
    """

    def __init__(
        self,
        pretrained: str = "starter",
        device: str | None = None,
        dtype: str | None = None,
        batch_size: object = 1,
        budget: object = None,
        strategy: str = "foveal",
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        from foveal.models.budget import budgeted, idle

        self.batch_size = count(batch_size, "batch_size")
        tokens = None if budget is None else count(budget, "budget")
        self.loaded = checked(foveal.load(pretrained, device=device, dtype=dtype), pretrained)
        if tokens is None and (note := idle(self.loaded.model, strategy)):
            logging.getLogger(__name__).warning(note)
        self.loaded.model = budgeted(self.loaded.model, tokens, strategy).eval()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, in batches of those that ask for the same settings."""
        given, said = [_given(one) for one in requests], [""] * len(requests)
        for rows in self._batches([repr(sorted((one[1] or {}).items())) for one in given]):
            settings = dict(given[rows[0]][1] or {})
            questions = [self._question(given[row][0], *given[row][2:]) for row in rows]
            texts = replies(
                self.loaded, questions, max_new_tokens=int(settings.get("max_new_tokens") or LONGEST),
                until=stops(settings), sampling=drawn(settings),
            )  # fmt: skip
            for row, text in zip(rows, texts, strict=True):
                said[row] = text
                self.cache_hook.add_partial("generate_until", (given[row][0], settings), text)
        return said

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The loss of each given answer (the least is the likeliest: lmms-eval picks it), and whether it is greedy."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for rows in self._batches([""] * len(requests)):
            answered = [self._answered(requests[row]) for row in rows]
            for row, told in zip(rows, losses(self.loaded, answered), strict=True):
                found[row] = told
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises InputError: rounds that go on from an answer are not asked."""
        raise InputError("tasks of several rounds are not supported; choose tasks of one question each")

    def _question(self, text: str, to_visual: Any, number: int, task: str, split: str) -> Example:
        """A request as an example, with its pictures out of the task's own data."""
        pictures = to_visual(self.task_dict[task][split][number]) or [] if to_visual is not None else []
        return asked(self.loaded, pictures, text)

    def _answered(self, request: Instance) -> tuple[Example, str]:
        text, answer, to_visual, number, task, split = _given(request)
        if not isinstance(answer, str):
            answer = str(answer(self.task_dict[task][split][number]))
        return self._question(text, to_visual, number, task, split), answer.strip()

    def _batches(self, kinds: Sequence[str]) -> Iterator[list[int]]:
        """Rows of one kind, at most a batch together."""
        for kind in dict.fromkeys(kinds):
            rows = [row for row, own in enumerate(kinds) if own == kind]
            yield from (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))


def _given(request: Instance) -> tuple[Any, ...]:
    """What a request holds, which lmms-eval leaves untyped."""
    return request.arguments
