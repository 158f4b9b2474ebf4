"""Those whom the model answers at once: who comes is read between two tokens, and who has been answered leaves."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import torch

from foveal.cli._serve_speaker import Job, Speaker, Writing
from foveal.decode.generate import Rows, go_on, join


class Table:
    """So many `places` at which jobs are answered together, each a token a turn; one where rows cannot be joined."""

    def __init__(self, speaker: Speaker, places: int) -> None:
        self.speaker, self.places = speaker, places if speaker.joins else 1
        self._answers: list[Writing] = []
        self._rows: Rows | None = None  # how far these have come; None: there are none

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Who is being answered."""
        return tuple(answer.job for answer in self._answers)

    def next(self, line: Sequence[Job]) -> tuple[Job, ...]:
        """Who sits down now: the first in line, and those right behind it that are read together with it."""
        free = line[: self.places - len(self._answers)]
        return tuple(takewhile(lambda job: job is line[0] or self.speaker.alike(line[0].wish, job.wish), free))

    @torch.inference_mode()
    def seat(self, jobs: Sequence[Job]) -> None:
        """Read what jobs ask, and write their answers from now on; what is wrong with one is told to it alone."""
        try:
            if (begun := self.speaker.read(jobs)) is None:
                return
            answers, rows = [*self._answers, *begun[0]], begun[1]
            if self._rows is not None:
                parts = [(self._rows, range(len(self._answers))), (rows, range(len(jobs)))]
                rows = join(parts, room=_room(answers))
            self._answers, self._rows = answers, rows
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].tell(error)
                return
            for job in jobs:
                self.seat([job])

    @torch.inference_mode()
    def turn(self) -> None:
        """One more token for everyone; who has been answered, or has gone, leaves."""
        rows, writer = self._rows, self.speaker.writer
        if rows is None or writer is None:
            return
        try:
            for answer, scores in zip(self._answers, rows.scores.split(1), strict=True):
                answer.choose(scores)
            self._rows = rows = self._left(rows)
            if rows is not None:
                chosen = torch.tensor([answer.ids[-1] for answer in self._answers], device=rows.scores.device)
                self._rows = go_on(writer, rows, chosen)
        except Exception as error:
            for job in self.jobs:
                job.tell(error)
            self._answers, self._rows = [], None

    def _left(self, rows: Rows) -> Rows | None:
        """The rows of those who are not done."""
        stay = [place for place, answer in enumerate(self._answers) if not answer.done]
        if len(stay) < len(self._answers):
            self._answers = [self._answers[place] for place in stay]
            return join([(rows, stay)], room=_room(self._answers)) if stay else None
        return rows


def answer(speaker: Speaker, jobs: Iterable[Job], *, together: int) -> None:
    """Answer jobs in their order, so many at once; what is wrong with one is told to it alone."""
    table, line = Table(speaker, together), list(jobs)
    while line or table.jobs:
        if taken := table.next(line):
            table.seat(taken)
        line = line[len(taken) :]
        table.turn()


def _room(answers: Iterable[Writing]) -> int:
    """How many tokens can be written before the first leaves, when rows are put together anew."""
    return min(answer.left for answer in answers)
