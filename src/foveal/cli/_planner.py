"""A recipe made ready as for training: its own data and order looked at, and a few of its steps taken."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _unseen
from foveal.cli._cost import DRAWS, order_of
from foveal.cli._objectives import objective_of
from foveal.cli._passing import Passing, Picked
from foveal.cli._recipe import Recipe
from foveal.cli._training import Batches, check_stages, prepared
from foveal.training.config import Stage

if TYPE_CHECKING:
    from foveal.cli._unseen import Size
    from foveal.training.feed import Feed
    from foveal.training.ledger import Steps
    from foveal.training.order import Order
    from foveal.training.plan import Held
    from foveal.training.processes import Team

WARM, STEPS, SECONDS = 3, 12, 20.0  # steps that are not timed, those that are, and how long these may take
COUNTED = 3  # micro-batches by which the work of a step is counted
THINNED = (0.125, 0.375, 0.625, 0.875)  # of a stage, by which work is counted where visual tokens thin out


@dataclass(frozen=True, kw_only=True)
class Wish:
    """For what is reckoned: devices and how they share, bytes of each, and operations a second of each."""

    devices: int = 1
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    memory: int | None = None
    speed: float | None = None

    @property
    def groups(self) -> int:
        """How many of them, or of those that hold a model together, take data of their own."""
        return self.devices // (self.tensor * self.pipeline)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step of one device does: operations, and seconds where it was timed; parameters, and those that learn."""

    operations: float
    seconds: float | None
    parameters: int
    trained: int


@contextmanager
def _put_back(model: Any, *, wanted: bool) -> Iterator[None]:
    """Weights as they were before: of what was split, nobody is there to give the rest."""
    before = [(weight, weight.detach().cpu().clone()) for weight in model.parameters()] if wanted else []
    yield
    for weight, was in before:
        weight.data.copy_(was)


class Planner:
    """A recipe made ready as for training, whose stages can be looked at and stepped through."""

    def __init__(self, recipe: Recipe, wish: Wish, folder: Path, *, say: Callable[[str], None], bar: Any) -> None:
        from foveal.training.feed import check_workers
        from foveal.training.objective import check as check_objective
        from foveal.training.objective import check_shared
        from foveal.training.processes import accelerator
        from foveal.training.sections import check as check_sections
        from foveal.training.splitting import told

        self.recipe, self.wish, self.bar = recipe, wish, bar
        self.data_folder, self.data, self.run = prepared(recipe, say=say, bar=bar)
        self.batches = Passing(Batches(self.run, recipe, self.data, say=say, bar=bar), folder)
        check_stages(self.run, self.batches, recipe.training.stages, begun=False)
        check_workers(recipe.training.workers)
        split = replace(recipe.training, tensor=wish.tensor)
        check_shared(split)
        check_sections(self.run.model, replace(split, pipeline=wish.pipeline, zero=0), processes=wish.devices)
        if whole := told(self.run.model, wish.tensor):
            say(whole)
        for stage in recipe.training.stages:
            check_objective(self.run.model, stage.objective)
        self.device = accelerator(recipe.training.device).device
        self.run.model.to(self.device)

    def order(self, stage: Stage) -> "Order":
        """The order in which a stage sees its groups."""
        return order_of(self.recipe, stage, self.data)

    def steps(self, stage: Stage) -> int | None:
        """How many steps a stage has; None where it ends by the clock."""
        from foveal.training.pace import Pace

        a_step = stage.batch_size * stage.accumulate * self.wish.groups
        return Pace.of(stage, visits=len(self.order(stage)), a_step=a_step).steps

    def sizes(self, stage: Stage) -> "list[Size]":
        """The sizes of a stage's micro-batches, on all devices."""
        steps = self.steps(stage)
        count = None if steps is None else steps * stage.accumulate * self.wish.groups
        order = self.order(stage)
        return _unseen.looked(self.batches, stage, order, _unseen.first(stage, order, count))

    def largest(self, stage: Stage, within: Stage, numbers: Sequence[int]) -> list[int]:
        """The micro-batches of a stage that may need the most memory, among those that larger ones are made of."""
        times = within.batch_size // stage.batch_size
        parts = [times * number + part for number in numbers for part in range(times)]
        return _unseen.largest(_unseen.looked(self.batches, stage, self.order(stage), parts))

    @contextmanager
    def phases(self, stage: Stage) -> Iterator[Iterator[tuple[float, "Feed", "Steps", Any]]]:
        """The stretches of a stage in which the same parts learn: each with its share, feed, steps, and what is told
        how much of the stage lies behind."""
        from foveal.training.changing import advance, behind, thinning
        from foveal.training.lora import adapted
        from foveal.training.parts import check, recomputed
        from foveal.training.processes import one_of

        stages, model = self.recipe.training.stages, self.run.model
        number = [one.name for one in stages].index(stage.name)

        def at(thin: Any, done: float) -> None:
            advance(model, behind(number, done, stages=len(stages)))
            thin(behind(number, done, stages=len(stages)), done)

        with ExitStack() as stack:
            team = stack.enter_context(one_of(self.wish.tensor, self.device.type))
            stack.enter_context(adapted(model, stage.lora))
            stack.enter_context(recomputed(model.layers, wanted=stage.checkpointing))
            thin = stack.enter_context(thinning(model, self.recipe.training, stage))
            check(model, stage)
            yield stack.enter_context(closing(self._phases(stage, team, partial(at, thin))))

    def _phases(self, stage: Stage, team: "Team", at: Any) -> Generator[tuple[float, "Feed", "Steps", Any], None, None]:
        from foveal.training.ledger import Steps
        from foveal.training.objective import objective, wants
        from foveal.training.parts import learning, optimizer, select
        from foveal.training.processes import accelerator
        from foveal.training.sharing import shared_apart, shared_out
        from foveal.training.step import Scored, prepared

        begin, model = 0.0, self.run.model
        for until, phase in stage.phases():
            made, wanted = accelerator(self.recipe.training.device), wants(phase.objective)
            with learning(model, phase) as plain, _put_back(model, wanted=team.tensor > 1):
                scored = Scored(model, objective(phase.objective), precision=phase.precision, team=team)
                with shared_out(scored, [], made, zero=0, kept=select(model, wanted.sets)) as shares:
                    chosen = [shares[parameter] for parameter in plain]
                    scored, adam = prepared(made, scored, optimizer(model, chosen, phase))
                    told = {"clip": phase.clip, "layers": shared_apart(model, wanted)}
                    steps = Steps(accelerator=made, scored=scored, adam=adam, chosen=chosen, **told)
                    try:
                        yield until - begin, _unseen.feed_of(self.batches, phase, self.order(phase)), steps, at
                    except GeneratorExit:  # whoever steps has met an error
                        return
            model.to(self.device)
            begin = until

    def waiting(self, stage: Stage) -> int:
        """How many micro-batches are on the device at once."""
        from foveal.training.feed import AHEAD

        workers = self.recipe.training.workers
        return stage.accumulate + (0 if self.device.type != "cpu" else 2 * workers or AHEAD + 1)

    def held(self, stage: Stage, numbers: Sequence[int]) -> "Held":
        """What one device holds at the fullest moment of a stage, by these micro-batches; of a pipeline the fullest."""
        from foveal.training.ledger import held, held_in_rows
        from foveal.training.plan import shared
        from foveal.training.sections import sections

        found: list[Held] = []
        rows = sections(self.run.model, self.wish.pipeline) if self.wish.pipeline > 1 else ()
        step = {"waiting": self.waiting(stage), "accumulate": stage.accumulate}
        with self.phases(stage) as phases, self.bar(f"{stage.name}: memory", None) as advance:
            for _, feed, steps, at in phases:
                at(0.0)  # all visual tokens are there
                for batch in (feed[number].batch.to(self.device) for number in numbers):
                    for _ in range(DRAWS if objective_of(stage)[0] == "budgets" else 1):
                        found += held_in_rows(steps, rows, batch, **step) if rows else [held(steps, batch, **step)]
                        advance(1)
        return max(found, key=lambda one: shared(one).total)

    def work(self, stage: Stage, sizes: "Sequence[Size]") -> Work:
        """What a step of one device does in the mean over a stage, where all of a pipeline have as much to do."""
        from foveal.training.plan import waited

        operations, seconds, learned = 0.0, 0.0, dict[int, int]()
        with self.phases(stage) as phases, self.bar(f"{stage.name}: steps", None) as advance:
            for share, feed, steps, at in phases:
                learned |= {id(parameter): parameter.numel() for parameter in steps.chosen}
                operations += share * self._operations(stage, feed, steps, at, sizes)
                if self.wish.speed is None:
                    at(0.5)
                    seconds += share * self._seconds(stage, feed, steps, sizes, advance)
            every = sum(parameter.numel() for parameter in self.run.model.parameters())
        pipeline = self.wish.pipeline
        timed = seconds / pipeline * waited(pipeline, stage.accumulate) if self.wish.speed is None else None
        done = {"operations": operations / pipeline, "seconds": timed}
        return Work(**done, parameters=every, trained=sum(learned.values()))

    def _operations(self, stage: Stage, feed: "Feed", steps: "Steps", at: Any, sizes: "Sequence[Size]") -> float:
        """Operations of a step: forward and backward, by a few micro-batches."""
        import torch

        from foveal.evaluation.flops import counting

        model: Any = self.run.model
        draws = DRAWS if objective_of(stage)[0] == "budgets" else COUNTED
        thinned = (stage.sparser or self.recipe.training.sparser) is not None
        numbers, total = _unseen.typical(sizes, COUNTED), 0
        batches = [feed[number].batch.to(self.device) for number in numbers]
        ways = THINNED if thinned else (0.5,)
        for way in ways:
            at(way)
            for draw in range(draws):
                torch.manual_seed(draw)
                with counting(model) as flops:
                    steps.scored(batches[draw % len(batches)])[0].backward()
                total += flops.total
                steps.adam.zero_grad()
        return total / (draws * len(ways)) * _unseen.over(sizes, numbers) * stage.accumulate

    def _seconds(self, stage: Stage, feed: "Feed", steps: "Steps", sizes: "Sequence[Size]", advance: Any) -> float:
        """Seconds of a step, by real ones: the slower of steps and of making their batches."""
        from foveal.training.feed import ahead
        from foveal.training.memory import memory_kept

        numbers = _unseen.typical(sizes, STEPS * stage.accumulate)
        picked = Picked(**{**vars(feed), "numbers": numbers})
        for number in range(len(numbers)):
            picked[number]  # what is made once is there from now on
        began = time.perf_counter()
        for number in range(len(numbers)):
            picked[number]
        workers = max(1, self.recipe.training.workers)
        making = (time.perf_counter() - began) / len(numbers) * stage.accumulate / workers
        kept = memory_kept if self.device.type == "cpu" else nullcontext
        with ahead(picked, count=None, workers=0) as coming, kept():
            for _ in range(WARM):
                self._step(steps, coming, stage.accumulate)
            began, taken = self._clock(), 0
            while taken < STEPS and (not taken or self._clock() - began < SECONDS):
                self._step(steps, coming, stage.accumulate)
                taken += 1
                advance(1)
            learning = (self._clock() - began) / taken
        return max(making, learning) * _unseen.over(sizes, numbers)

    def _step(self, steps: "Steps", coming: Any, accumulate: int) -> None:
        steps.take([next(coming).batch.to(self.device) for _ in range(accumulate)])

    def _clock(self) -> float:
        import torch

        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()
