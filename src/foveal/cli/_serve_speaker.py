"""The model behind `foveal serve`: what it is asked read, and answers as they grow, each as if it were alone."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.cli._detection import check_asked
from foveal.cli._serve_told import Ended
from foveal.cli._serve_wish import Refusal, Wish
from foveal.cli._serve_words import Words, cut
from foveal.core.errors import InputError
from foveal.core.lookup import names
from foveal.core.types import Answer
from foveal.decode.choose import Chooser
from foveal.decode.constrained import nucleus
from foveal.decode.generate import Rows, check_room, in_words, reached, read, ready, spoken
from foveal.decode.sampling import Sampling, greedy, sampler
from foveal.layers.cache import KVCache
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
    ended: bool = False

    def tell(self, event: str | Ended | Exception) -> None:
        """The next that becomes of it; after the last there is none."""
        if not self.ended:
            self.ended = not isinstance(event, str)
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
        language: Any = self.model.language
        spells = self.processor.speller is not None
        self.writer = self.model if isinstance(self.model, Causal) and not spells else None  # token by token
        self.joins = self.writer is not None and isinstance(language.cache(1, 1), KVCache)
        self.longest, self.usual = longest, min(longest, getattr(run, "longest", None) or longest)
        self.strategies = tuple(sorted(names(ROOM)))

    def alike(self, one: Wish, other: Wish) -> bool:
        """Whether two can be read together: under one budget, to be answered word by word."""
        return self.writer is not None and (one.budget, one.strategy) == (other.budget, other.strategy)

    def read(self, jobs: Sequence[Job]) -> "tuple[list[Writing], Rows] | None":
        """The answers to jobs that are alike, which begin, and what was read for them; None: one was given at once.

        Takes the errors of `prompted` and `ready`, and raises Refusal for what this run is not asked.
        """
        if self.writer is None:
            return self._tell(*jobs)
        asked, wish = [job.wish.asked for job in jobs], jobs[0].wish
        model, batch, costs = prompted(self.writer, self.processor, asked, wish.budget, wish.strategy, room=1)
        prompts = [ids[valid][None] for ids, valid in zip(batch.input_ids, batch.valid, strict=True)]
        stops, answers = frozenset(self.processor.stop_ids), []
        for job, cost, prompt in zip(jobs, costs, prompts, strict=True):
            most, sampling = self._most(job.wish, prompt.shape[1]), in_words(model, self._sampling(job.wish))
            answers.append(Writing(job, cost, prompt, most=most, stops=stops, text=self._text, sampling=sampling))
        new = [answer.left for answer in answers]
        rows = read(model, ready(model, batch, new), new)
        for answer, length in zip(answers, reached(rows), strict=True):
            check_room(model, length, 1)
            answer.left = min(answer.left, model.language.context - length)
        return answers, rows

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


class Writing:
    """An answer that is being written: `left` more tokens at most."""

    def __init__(
        self,
        job: Job,
        cost: Answer,
        prompt: Int[Tensor, "1 L"],
        *,
        most: int,
        stops: Collection[int],
        text: Callable[[Sequence[int]], str],
        sampling: Sampling,
    ) -> None:
        self.job, self.cost, self.prompt, self.left = job, cost, prompt, most
        self.stops, self.text, self.sampling = stops, text, sampling
        self.ids: list[int] = []
        self.words, self.done = Words(job.wish.stops), False

    def choose(self, scores: Float[Tensor, "1 V"]) -> None:
        """Choose its next token, and tell what can be told by now; what is wrong is told too, and ends it."""
        try:
            if self.job.gone.is_set():
                self.done = True
            else:
                self._take(int(self.sampling(scores, self.prompt, self.prompt.new_tensor([self.ids]))))
        except Exception as error:
            self.job.tell(error)
            self.done = True

    def _take(self, token: int) -> None:
        self.ids.append(token)
        self.left -= 1
        last = token in self.stops or not self.left
        wish = self.job.wish
        if last or wish.stream or wish.stops:
            self._say(self.words.grow(self.text(spoken(self.ids, self.stops))))
        if not last and not self.words.stopped:
            return
        self._say(self.words.end())
        finish = "stop" if token in self.stops or self.words.stopped else "length"
        answer = replace(self.cost, text=self.words.text, token_ids=tuple(self.ids))
        self.job.tell(Ended(answer=answer, finish=finish, prompt_tokens=self.prompt.shape[1]))
        self.done = True

    def _say(self, words: str) -> None:
        if words and self.job.wish.stream:
            self.job.tell(words)
