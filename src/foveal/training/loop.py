"""The one training loop: stages of steps, under Accelerate, whatever the model and the objective."""

import errno
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object, set_seed
from torch import nn
from torch.optim import Optimizer

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training import checkpoint
from foveal.training.changing import advance, behind, heard, thinning
from foveal.training.checkpoint import Checkpoints, Progress, Snapshot
from foveal.training.config import Stage, TrainingConfig
from foveal.training.feed import Collate, Feed, Micro, ahead, check_workers
from foveal.training.log import Entry, Log
from foveal.training.lora import adapted
from foveal.training.memory import memory_kept
from foveal.training.objective import check as check_objective
from foveal.training.objective import check_shared, objective, wants
from foveal.training.order import Order, order_of
from foveal.training.pace import Pace
from foveal.training.parts import carried, check, learning, optimizer, recomputed, select
from foveal.training.pipeline import piped
from foveal.training.processes import accelerator, processes, team
from foveal.training.resuming import check as check_resumed
from foveal.training.resuming import described
from foveal.training.sections import check as check_sections
from foveal.training.sharing import Shares, shared_apart, shared_out, stepped
from foveal.training.splitting import told as told_split
from foveal.training.step import Scored, prepared, take
from foveal.training.stop import SIGNALS, Interrupted, Stop
from foveal.training.wants import Wants
from foveal.training.watch import Watch
from foveal.training.window import Window

_PASSED = 32  # steps in a row that may count nothing, however small the data are


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run: steps and seconds in all, the last mean loss, and the step that it resumed from."""

    steps: int
    seconds: float
    loss: float | None
    resumed_from: int


def train(
    model: nn.Module,
    data: Sequence[Example],
    *,
    config: TrainingConfig,
    collate: Callable[[Stage], Collate],
    out: Path,
    recipe: Mapping[str, Any] | None = None,
    fresh: bool = False,
    ended: Callable[[Stage], None] = lambda stage: None,
    watch: Watch | None = None,
) -> Result:
    """Train `model` in place on `data`, stage after stage; logs and checkpoints go to the directory `out`.

    `collate(stage)` makes the function that turns groups of examples into a batch, `ended(stage)` is called in the main
    process when a stage has been trained, before its checkpoint is written; `watch` looks on meanwhile. A run that
    `out` holds is resumed to the same curve, unless `fresh`; `recipe` is what else must be the same for that (`lines`:
    a fingerprint of the data, which older runs lack). Raises InputError for what cannot be trained, a loss that is no
    number and a full disk (the last checkpoint stands), and Interrupted.
    """
    check_workers(config.workers)
    check_shared(config)
    check_sections(model, config, processes=processes(config.device).num_processes)
    for stage in config.stages:
        check_objective(model, stage.objective)
    told_split(model, config.tensor)
    run = _Run(model, data, config=config, collate=collate, out=out, recipe=recipe or {}, ended=ended, watch=watch)
    try:
        with Stop() as stop:
            return run(stop, fresh=fresh)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        last = run.checkpoints.newest()
        stands = f"the last checkpoint, {last.name}, stands" if last else "there is no checkpoint yet"
        raise InputError(
            f"no space left on the disk of {out} at step {run.progress.step}; {stands}; free some and train again"
        ) from None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What steps share in which the same parts learn: up to the share `until` of their stage."""

    stage: Stage
    until: float
    scored: nn.Module
    adam: Optimizer
    chosen: Sequence[nn.Parameter]
    feed: Feed
    pace: Pace
    window: Window
    thin: Callable[[float, float], None]


class _Run:
    """A run between its steps."""

    def __init__(
        self,
        model: nn.Module,
        data: Sequence[Example],
        *,
        config: TrainingConfig,
        collate: Callable[[Stage], Collate],
        out: Path,
        recipe: Mapping[str, Any],
        ended: Callable[[Stage], None],
        watch: Watch | None,
    ) -> None:
        self.model, self.data, self.config, self.collate, self.out = model, data, config, collate, out
        self.ended, self.watch, self.unseen = ended, watch, list(watch.shares if watch is not None else ())
        self.accelerator = accelerator(config.device)
        self.team = team(self.accelerator, tensor=config.tensor, pipeline=config.pipeline)
        self.shares = (bool(config.zero) and self.team.groups > 1) or config.tensor > 1
        self.recipe = described(config, recipe, examples=len(data))
        self.checkpoints = Checkpoints(folder=out / "checkpoints", keep=config.keep)
        self.progress, self.began, self.saved_at = Progress(), 0.0, 0.0
        self.learned: set[str] = set()  # names of the parameters that some stage has trained
        self.untouched = (frozenset[str](), "")  # names and fingerprint of what the last checkpoint left out
        self.loss: float | None = None
        self.rate = 0.0

    def __call__(self, stop: Stop, *, fresh: bool) -> Result:
        snapshot = self._found(fresh)
        set_seed(self.config.seed + self.team.group)
        if snapshot is not None:
            self.progress, self.saved_at = snapshot.progress, snapshot.progress.seconds
            self._check_untouched(snapshot)
            if not self.progress.stage_step:  # fresh adapters of a stage that begins come from the random state
                checkpoint.put_weights(self.model, snapshot.weights)
                checkpoint.put_chance(snapshot, self.team.group)
        start, silent = self.progress.step, not self.accelerator.is_main_process
        begun = snapshot is not None and bool(snapshot.window.get("steps"))
        told = start - 1 if begun else start  # the entry of what is begun is still to be written
        with Log(self.out, from_step=told, tensorboard=self.config.tensorboard, silent=silent) as log:
            if snapshot is not None and self.progress.stage < len(self.config.stages):
                log.say(f"resuming at step {start}")
            if whole := told_split(self.model, self.config.tensor):
                log.say(whole)
            self.began = time.monotonic() - self.progress.seconds
            while self.progress.stage < len(self.config.stages):
                self._stage(self.config.stages[self.progress.stage], snapshot, stop, log)
                snapshot = None
        return Result(steps=self.progress.step, seconds=self.progress.seconds, loss=self.loss, resumed_from=start)

    def _found(self, fresh: bool) -> Snapshot | None:
        """The checkpoint to resume, if there is one. Raises InputError for one that does not come to the same curve."""
        if self.accelerator.is_main_process:
            (self.checkpoints.clear if fresh else self.checkpoints.sweep)()
        self.accelerator.wait_for_everyone()
        newest = self.checkpoints.newest()
        if newest is None:
            return None
        snapshot = self.checkpoints.read(newest)
        check_resumed(snapshot, self.recipe, team=self.team, out=self.out)
        return snapshot

    def _stage(self, stage: Stage, snapshot: Snapshot | None, stop: Stop, log: Log) -> None:
        """Train one stage to its end, from its beginning or from a snapshot within it."""
        order = order_of(stage, self.data, seed=self.config.seed)
        pace = Pace.of(stage, visits=len(order), a_step=self._visits(stage))
        before: Mapping[nn.Parameter, Any] = {}
        with ExitStack() as stack:
            merged = stack.enter_context(adapted(self.model, stage.lora))
            stack.enter_context(recomputed(self.model.layers, wanted=stage.checkpointing))  # type: ignore[arg-type]
            thin = stack.enter_context(thinning(self.model, self.config, stage))
            if snapshot is None:  # what has begun goes on
                check(self.model, stage)
            shared = partial(_Work, pace=pace, thin=thin)
            for until, phase in stage.phases()[self.progress.phase :]:
                if snapshot is None and self.progress.phase:
                    self.accelerator = accelerator(self.config.device)
                before = self._phase(phase, partial(shared, until=until), order, snapshot, before, stop, log)
                self.progress, snapshot = replace(self.progress, phase=self.progress.phase + 1), None
        self.accelerator = accelerator(self.config.device)  # the old one holds on to what it has prepared
        self.learned = {name for name in self.learned if "lora_" not in name} | merged
        if self.accelerator.is_main_process:
            self.ended(stage)
        self.progress = self.progress.next_stage()
        self._save(None)

    def _phase(
        self,
        stage: Stage,
        work: Callable[..., "_Work"],
        order: Order,
        snapshot: Snapshot | None,
        before: Mapping[nn.Parameter, Any],
        stop: Stop,
        log: Log,
    ) -> Mapping[nn.Parameter, Any]:
        """The steps in which the same parts learn; takes the optimizer's state of those before, and returns its own."""
        with ExitStack() as stack:
            plain = stack.enter_context(learning(self.model, stage))
            begun = snapshot if snapshot is not None and snapshot.progress.stage_step else None
            if begun is not None:
                checkpoint.put_weights(self.model, begun.weights)  # an encoder is asked before weights are shared
            feed = self._ready(stage, order, stop)
            scored = Scored(self.model, objective(stage.objective), precision=stage.precision, team=self.team)
            self.learned |= checkpoint.names_of(self.model, plain)
            self.untouched = checkpoint.left_out(self.model, self.learned, self.untouched)
            shares = stack.enter_context(self._shared(scored, wants(stage.objective)))
            chosen = [shares[parameter] for parameter in plain]
            state = {shares[parameter]: held for parameter, held in before.items()}
            adam = carried(state, optimizer(self.model, chosen, stage))
            scored, adam = prepared(self.accelerator, scored, adam)
            if begun is not None:
                pipeline = self.accelerator.unwrap_model(scored).pipeline
                checkpoint.put_optimizer(adam, begun.optimizer, *([] if pipeline is None else [pipeline.holds]))
                checkpoint.put_chance(begun, self.team.group)
            most = max(_PASSED, math.ceil(2 * len(order) / self._visits(stage)))  # two epochs: one of them is whole
            window = Window(lag=0 if self.accelerator.device.type == "cpu" else 1, most=most)
            window.put(snapshot.window if snapshot is not None else {})
            self._steps(work(stage=stage, scored=scored, adam=adam, chosen=chosen, feed=feed, window=window), stop, log)
            return {parameter: adam.state[share] for parameter, share in shares.items() if share in adam.state}

    def _shared(self, scored: Scored, wanted: Wants) -> AbstractContextManager[Shares]:
        """The model as processes share it; whole in each is what the objective sets itself."""
        if self.config.pipeline > 1:
            return piped(scored, self.accelerator)
        layers, kept = shared_apart(self.model, wanted), select(self.model, wanted.sets)
        return shared_out(scored, layers, self.accelerator, zero=self.config.zero, kept=kept)

    def _ready(self, stage: Stage, order: Order, stop: Stop) -> Feed:
        """The feed, for which features may be computed for long; raises Interrupted where that is broken off."""
        ready = time.monotonic()
        try:
            with stop.at_once():
                return self._feed(stage, order)
        except KeyboardInterrupt:
            raise Interrupted(stop.signum, self.progress.step, self.checkpoints.newest()) from None
        finally:
            self.began += time.monotonic() - ready  # a stage's minutes are for learning, not for computing features

    def _feed(self, stage: Stage, order: Order) -> Feed:
        return Feed(
            data=self.data,
            order=order,
            collate=self.collate(stage),
            batch_size=stage.batch_size,
            first=self.progress.place,
            rank=self.team.group,
            world=self.team.groups,
        )

    def _visits(self, stage: Stage) -> int:
        """Groups that a step takes in all processes."""
        return stage.batch_size * stage.accumulate * self.team.groups

    def _steps(self, work: _Work, stop: Stop, log: Log) -> None:
        steps, window = work.pace.steps, work.window
        count = None if steps is None else (steps - self.progress.stage_step) * work.stage.accumulate
        limit = self.config.max_minutes
        kept = memory_kept if self.accelerator.device.type == "cpu" and not self.shares else nullcontext
        with ahead(work.feed, count=count, workers=self.config.workers) as micros, kept():
            self._look(work)
            while work.pace.done(self.progress) < work.until and (limit is None or self.progress.seconds < 60 * limit):
                signum = self._step(work, list(islice(micros, work.stage.accumulate)), stop)
                if self.progress.step % self.config.log_every == 0:
                    self._tell(work, log)
                self._look(work)
                if signum or self.progress.seconds - self.saved_at >= 60 * self.config.checkpoint_minutes:
                    window.read()
                    place = self._save(work)
                    if signum:
                        raise Interrupted(signum, self.progress.step, place)
            window.read()
            if 0 < self.progress.stage_step <= window.passed:
                window.refuse(partial(_where, work.stage, self.progress, []))
            self._tell(work, log)

    def _step(self, work: _Work, micros: Sequence[Micro], stop: Stop) -> int:
        """One step; returns the signal that some process was asked to stop by, or 0."""
        device, progress = self.accelerator.device, self.progress
        batches = [micro.batch if device.type == "cpu" else micro.batch.to(device) for micro in micros]
        done = work.pace.done(progress)
        run = behind(progress.stage, done, stages=len(self.config.stages))
        advance(self.model, run)
        work.thin(run, done)
        told = (time.monotonic() - self.began, *(float(stop.signum == signum) for signum in SIGNALS))
        taken = take(self.accelerator, work.scored, work.chosen, batches, clip=work.stage.clip, told=told)
        share = work.pace.rate(progress)
        self.rate = work.stage.rate * share
        for group in work.adam.param_groups:
            group["lr"] = group["peak"] * share
        if not taken.empty:
            stepped(work.adam)
        work.adam.zero_grad()
        self.progress = replace(
            progress,
            step=progress.step + 1,
            stage_step=progress.stage_step + 1,
            place=progress.place + self._visits(work.stage),
            seconds=taken.told[0] / self.accelerator.num_processes,
        )
        tokens, examples = (sum(getattr(micro, key) for micro in micros) for key in ("tokens", "examples"))
        where = partial(_where, work.stage, self.progress, micros)
        work.window.add(taken, where, tokens=tokens, examples=examples)
        asked = [signum for signum, count in zip(SIGNALS, taken.told[1:], strict=True) if count]
        return asked[0] if asked else stop.signum if self.accelerator.num_processes == 1 else 0

    def _look(self, work: _Work) -> None:
        """Let who watches look, where the last stage has come as far as that is wanted."""
        done = work.pace.done(self.progress)
        while self.unseen and self.unseen[0] <= done and work.stage.name == self.config.stages[-1].name:
            began, chance = time.monotonic(), checkpoint.random_state()
            work.window.read()
            self._save(work)
            share = self.unseen.pop(0)
            if self.watch is not None and self.accelerator.is_main_process:
                self.watch.look(work.stage, share, self.progress)
            checkpoint.put_random_state(chance)
            spent = time.monotonic() - began
            self.began, work.window.since = self.began + spent, work.window.since + spent

    def _tell(self, work: _Work, log: Log) -> None:
        """Write the entry of the steps since the last one."""
        window, seconds = work.window, self.progress.seconds
        if not window.steps:
            return
        self.loss, norm, parts = window.means()
        world, spent = self.team.groups, max(1e-9, window.spent())
        log.write(
            Entry(
                step=self.progress.step,
                stage=work.stage.name,
                loss=self.loss,
                rate=self.rate,
                gradient=norm,
                seconds=seconds,
                tokens=window.tokens * world / spent,
                examples=window.examples * world / spent,
                done=work.pace.done(self.progress),
                left=work.pace.left(self.progress),
                parts={**parts, **heard(self.model)},
            )
        )
        window.clear()

    def _save(self, work: _Work | None) -> Path:
        """Write a checkpoint; without work it stands between two stages."""
        self.untouched = checkpoint.left_out(self.model, self.learned, self.untouched)
        main, adam = self.accelerator.is_main_process, None if work is None else work.adam
        pipeline = None if work is None else self.accelerator.unwrap_model(work.scored).pipeline
        weights, state = checkpoint.state_of(self.model, self.learned, adam, here=main, pipeline=pipeline)
        snapshot = Snapshot(
            progress=self.progress,
            weights=weights,
            optimizer=state,
            random=tuple(gather_object([checkpoint.random_state()])[:: self.team.each]),
            untouched=self.untouched[1],
            recipe=self.recipe,
            window=work.window.state() if work is not None else {},
        )
        if main:
            self.checkpoints.write(snapshot)
        self.accelerator.wait_for_everyone()
        self.saved_at = self.progress.seconds
        return self.checkpoints.place(snapshot)

    def _check_untouched(self, snapshot: Snapshot) -> None:
        self.learned = set(snapshot.weights) & set(checkpoint.parameters_of(self.model))
        self.untouched = checkpoint.left_out(self.model, self.learned, (frozenset(), ""))
        if self.untouched[1] != snapshot.untouched:
            raise InputError(
                f"{self.out} was trained on other frozen weights than these; "
                "resume with the model that it began with, or begin anew with --fresh"
            )


def _where(stage: Stage, progress: Progress, micros: Sequence[Micro]) -> str:
    ids = [identity for micro in micros for identity in micro.ids]
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"step {progress.step} (stage {stage.name!r}" + (f", examples {shown})" if shown else ")")
