"""The model behind `foveal serve`: several conversations answered together, each as if it were alone."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import torch

from foveal.cli._detection import check_asked
from foveal.cli._serve_told import Ended
from foveal.cli._serve_wish import Refusal, Wish
from foveal.cli._serve_words import Words, cut
from foveal.core.errors import InputError
from foveal.core.lookup import names
from foveal.core.types import Answer
from foveal.decode.choose import Chooser
from foveal.decode.constrained import nucleus
from foveal.decode.generate import spoken, stream
from foveal.decode.sampling import Sampling, by_row, greedy, sampler
from foveal.models.budget import ROOM
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.models.talk import prompted

_COLD = 1e-5  # below this temperature the best token alone is left


@dataclass(eq=False)
class Job:
    """One request on its way: what becomes of it is put into `events` (words, then what ended it); who asks may be
    `gone`."""

    wish: Wish
    events: Any = field(default_factory=SimpleQueue)
    gone: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    ended: bool = False

    def tell(self, event: str | Ended | Exception) -> None:
        """The next that becomes of it; after the last there is none."""
        if not self.ended:
            self.begun, self.ended = True, not isinstance(event, str)
            self.events.put(event)


class Speaker:
    """A run that is asked in words; an answer has at most `longest` tokens. Raises InputError for a run that is not."""

    def __init__(self, run: Any, *, longest: int) -> None:
        if isinstance(run.model, Causal | Masked) and run.processor is not None:
            self.run, self.model, self.processor = run, run.model, run.processor
        else:
            raise InputError(
                "this run answers no question: it has no words, or none to say; serve a run or a checkpoint that "
                "foveal ask can ask"
            )
        if self.processor.config.region_files is not None:
            raise InputError(
                "this run reads features of regions that are made elsewhere, and clients send pictures; ask it by "
                "foveal ask, with files of such features"
            )
        self.writes = isinstance(self.model, Causal) and self.processor.speller is None
        self.longest, self.usual = longest, min(longest, getattr(run, "longest", None) or longest)
        self.strategies = tuple(sorted(names(ROOM)))

    def alike(self, one: Wish, other: Wish) -> bool:
        """Whether two can be answered together: under one budget, word by word."""
        return self.writes and (one.budget, one.strategy) == (other.budget, other.strategy)

    def company(self, waiting: Sequence[Job], most: int) -> tuple[Job, ...]:
        """The first who waits, and those who can be answered together with it: at most so many."""
        alike = [job for job in waiting[1:] if self.alike(waiting[0].wish, job.wish)]
        return (*waiting[:1], *alike)[:most]

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that are alike; what is wrong with one is told to that one alone."""
        try:
            if self.writes:
                self._write(jobs)
            else:
                self._tell(*jobs)
        except Exception as error:
            if len(jobs) == 1 or any(job.begun for job in jobs):
                for job in jobs:
                    job.tell(error)
                return
            for job in jobs:
                self.answer([job])

    @torch.inference_mode()
    def _write(self, jobs: Sequence[Job]) -> None:
        assert isinstance(self.model, Causal)
        first = jobs[0].wish
        asked = [job.wish.asked for job in jobs]
        model, batch, costs = prompted(self.model, self.processor, asked, first.budget, first.strategy, room=1)
        rows, stops = [], frozenset(self.processor.stop_ids)
        for job, cost, length in zip(jobs, costs, batch.valid.sum(1).tolist(), strict=True):
            rows.append(_Row(job, cost, length, most=self._most(job.wish, length), stops=stops, text=self._text))
        steps = stream(
            model,
            batch,
            max_new_tokens=max(row.most for row in rows),
            stop_ids=stops,
            sampling=by_row([self._sampling(job.wish) for job in jobs]),
        )
        for chosen in steps:
            for row, token in zip(rows, chosen.tolist(), strict=True):
                row.take(token)
            if all(row.done for row in rows):
                return

    def _most(self, wish: Wish, length: int) -> int:
        """The most tokens of an answer to a prompt of this length."""
        context = getattr(self.model.language, "context", self.processor.config.context)
        room = min(self.processor.config.context, context) - length
        return max(1, min(self.usual if wish.most is None else wish.most, self.longest, room))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))

    def _sampling(self, wish: Wish) -> Sampling:
        """How this answer's tokens are chosen: as the model's own settings say where the client says nothing."""
        generator = torch.Generator(next(self.model.parameters()).device)
        if wish.seed is None:
            generator.seed()
        else:
            generator.manual_seed(wish.seed)
        if wish.temperature is None and wish.top_p is None:
            return self._own(generator)
        heat, top_p = 1.0 if wish.temperature is None else wish.temperature, wish.top_p
        if heat < _COLD:
            return greedy
        if self.processor.speller is not None:
            return nucleus(temperature=heat, top_p=1.0 if top_p is None else top_p, generator=generator)
        return sampler(temperature=heat, top_p=top_p, generator=generator)

    def _own(self, generator: torch.Generator) -> Sampling:
        """How the model's own settings choose tokens."""
        own = getattr(self.run, "sampling", None)
        try:
            return greedy if own is None else own(generator)
        except InputError as error:
            raise Refusal(f"{str(error).partition(';')[0]}; give a temperature, such as 0", "temperature") from None

    def _tell(self, job: Job) -> None:
        """Answer a job of a run that chooses or spells what it says."""
        wish, settings = job.wish, {}
        if (question := wish.question) is None:
            raise Refusal("this run answers one question at a time; give one message of the user", "messages")
        check_asked(self.run, question)
        sampling = self._sampling(wish)
        if sampling is not greedy:
            if isinstance(self.model, Chooser):
                told = "this run chooses the best of whole answers and draws no tokens; leave temperature and top_p out"
                raise Refusal(told, "temperature")
            settings["sampling"] = sampling
        if wish.most is not None:
            settings["max_new_tokens"] = min(wish.most, self.longest)
        way = {"budget": wish.budget, "strategy": wish.strategy, **settings}
        *_, last = self.run.stream_answer(list(wish.asked.images), question, **way)
        text, _ = cut(last.text, wish.stops)
        if wish.stream and text.rstrip():
            job.tell(text.rstrip())
        read = len(self.processor.tokenizer.encode(question, add_special_tokens=False)) + last.visual_tokens
        job.tell(Ended(answer=replace(last, text=text.rstrip()), finish="stop", prompt_tokens=read))


class _Row:
    """One answer among those that are written together."""

    def __init__(
        self,
        job: Job,
        cost: Answer,
        read: int,
        *,
        most: int,
        stops: Collection[int],
        text: Callable[[Sequence[int]], str],
    ) -> None:
        self.job, self.cost, self.read, self.most, self.stops, self.text = job, cost, read, most, stops, text
        self.ids: list[int] = []
        self.words, self.done = Words(job.wish.stops), False

    def take(self, token: int) -> None:
        """The row's next token, and what can be told by now."""
        self.done = self.done or self.job.gone.is_set()
        if self.done:
            return
        self.ids.append(token)
        last = token in self.stops or len(self.ids) == self.most
        wish = self.job.wish
        if last or wish.stream or wish.stops:
            self._say(self.words.grow(self.text(spoken(self.ids, self.stops))))
        if not last and not self.words.stopped:
            return
        self._say(self.words.end())
        finish = "stop" if token in self.stops or self.words.stopped else "length"
        answer = replace(self.cost, text=self.words.text, token_ids=tuple(self.ids))
        self.job.tell(Ended(answer=answer, finish=finish, prompt_tokens=self.read))
        self.done = True

    def _say(self, words: str) -> None:
        if words and self.job.wish.stream:
            self.job.tell(words)
