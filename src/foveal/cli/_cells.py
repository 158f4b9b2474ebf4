"""One training of a comparison: trained, trained without images, and asked with all and with fewer visual tokens."""

import hashlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from foveal.cli import _cost, _examples, _recipe
from foveal.cli._beside import beside
from foveal.cli._comparison import Job, Spending, paced
from foveal.cli._recipe import Recipe
from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.evaluation.cells import DONE, Record

if TYPE_CHECKING:
    from foveal.evaluation.questions import Question

LOOKS = 24  # pictures of each cell that are asked one by one: where it looked, and what it cost
CELLS = 32  # a side of a map that is kept, which pictures show as large as themselves
COUNTED = 4  # of these, whose operations are counted


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a comparison is kept, and who is told of it; `known` holds trainings of another that are as good here."""

    out: Path
    say: Callable[[str], None]
    bar: Any
    known: Path | None = None

    def run(self, job: Job) -> Path:
        """The run directory of a job."""
        return self.out / "runs" / job.name

    def record(self, job: Job) -> Record:
        """What is known of a job."""
        return Record.open(self.out / "cells" / f"{job.name}.json", key=job.key)

    def elsewhere(self, job: Job) -> Record | None:
        """The same training in what is known already; None: it is not there, or did not come to its end."""
        if self.known is None:
            return None
        found = Record.open(self.known / "cells" / f"{job.name}.json", key=job.key)
        run = self.known / "runs" / job.name
        return found if found.trained and (run / "config.yaml").is_file() else None


def missing(job: Job, record: Record) -> list[dict[str, Any]]:
    """The names of the cells that a record lacks."""
    wanted = [named(job, spending) for spending in job.spendings]
    wanted += [text_only(job)] if job.text_only else []
    return [names for names in wanted if record.cell(**names) is None]


def done(jobs: Sequence[Job], place: Place) -> list[Job]:
    """Those that were trained and asked something; raises InputError where there is none."""
    found = [job for job in jobs if any(cell["state"] == DONE for cell in place.record(job).cells)]
    if not found:
        raise InputError(f"{place.out} holds nothing that is done of this comparison; leave --report out to begin")
    return found


def named(job: Job, spending: Spending) -> dict[str, Any]:
    """What a cell goes by within its training."""
    asked = dump(replace(job.evaluation, metric=None))  # which scores what was answered, and changes nothing of that
    return {"strategy": spending.name, "wanted": spending.tokens, "evaluation": asked}


def text_only(job: Job) -> dict[str, Any]:
    """What the cell of the twin without images goes by."""
    return named(job, Spending(strategy="text_only"))


def carry(job: Job, place: Place) -> Record:
    """Do what is not done of a job; what fails is told in its record, and only data that are not there end the rest."""
    record = place.record(job)
    if not missing(job, record):
        return record
    check_data(job)
    if not record.begun and (known := place.elsewhere(job)) is not None:
        _adopt(job, place, record, known)
    if not record.trained and not _attempted(record, "training", lambda: _trained(job, place, record)):
        return record
    asked = questions_of(job)
    for spending in job.spendings:
        if record.cell(**named(job, spending)) is None:
            place.say(f"{job.name}: asking, {_title(spending)}")
            _cell(record, named(job, spending), lambda one=spending: _answered(job, place, one, asked))
    if job.text_only and record.cell(**text_only(job)) is None:
        _cell(record, text_only(job), lambda: _twin(job, place, record, asked))
    return record


def _adopt(job: Job, place: Place, record: Record, known: Record) -> None:
    """Take over a training that was done elsewhere, and what its twin without images answered to the same questions."""
    place.say(f"{job.name}: trained already, taken from {place.known}")
    shutil.copytree(known.file.parents[1] / "runs" / job.name, place.run(job), dirs_exist_ok=True)
    twin = known.cell(**text_only(job))
    record.put(**{**known.told, "cells": [twin] if twin is not None else []})


def _title(spending: Spending) -> str:
    if spending.tokens is None:
        return "all tokens"
    return (
        f"{spending.name}, {spending.tokens:.0%} of its tokens"
        if spending.tokens < 1
        else f"{spending.name} {spending.tokens}"
    )


def _attempted(record: Record, part: str, work: Callable[[], dict[str, Any]]) -> bool:
    try:
        record.put(**{part: {**work(), "state": DONE}})
    except Exception as error:
        record.put(**{part: _failed(error)})
        return False
    return True


def _cell(record: Record, names: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> None:
    try:
        record.add({**work(), "state": DONE}, **names)
    except Exception as error:
        record.add(_failed(error), **names)


def _failed(error: Exception) -> dict[str, Any]:
    """A failure in words: refused is what cannot be, failed what should have gone."""
    from foveal.training.stop import Interrupted

    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, InputError):
        return {"state": "refused", "error": str(error)}
    return {"state": "failed", "error": "".join(traceback.format_exception_only(error)).strip()}


def _trained(job: Job, place: Place, record: Record) -> dict[str, Any]:
    from foveal.cli import _report
    from foveal.cli._training import carry_out

    fresh, run = not record.begun, place.run(job)
    about = {"system": job.system, "family": job.recipe.family, "recipe": job.recipe.name, "seed": job.recipe.seed}
    record.put(key=job.key, **about, length=dump(job.length), config=dump(job.recipe), made=_cost.made())
    place.say(f"{job.name}: counting what a step costs")
    cost = _cost.stages(job.recipe, say=place.say, bar=place.bar)
    recipe = paced(job.recipe, job.length, {name: sum(parts.values()) for name, parts in cost.samples.items()})
    record.put(config=dump(recipe))
    place.say(f"{job.name}: training for {sum(stage.steps or 0 for stage in recipe.training.stages):,} steps")
    if fresh and run.is_dir():
        shutil.rmtree(run)
    stages = recipe.training.stages
    with _twin_meanwhile(job, recipe, run, record), _cost.memory() as peak:
        told = carry_out(recipe, run, fresh=fresh, say=place.say, bar=place.bar)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return {
        "steps": told["steps"],
        "seconds": told["seconds"],
        "loss": told["loss"],
        "stages": [
            {
                "name": stage.name,
                "steps": stage.steps,
                "samples": (stage.steps or 0) * stage.batch_size * stage.accumulate,
            }
            for stage in stages
        ],
        "flops": cost.total(recipe),
        "memory": peak(),
        "order": cost.order,
        "parameters": cost.parameters,
        "losses": _report.losses(run),
    }


def _twin_meanwhile(job: Job, recipe: Recipe, run: Path, record: Record) -> AbstractContextManager[None]:
    """Within it the twin without images is trained as well, where one is wanted and can be had."""
    if not job.text_only or record.cell(**text_only(job)) is not None:
        return nullcontext()
    try:
        without = _without(job.recipe, {stage.name: stage.steps for stage in recipe.training.stages})
    except InputError:  # which is told where the twin is asked
        return nullcontext()
    return beside(without, run / "text_only")


def _twin(job: Job, place: Place, record: Record, asked: Sequence["Question"]) -> dict[str, Any]:
    """The same recipe without images, for as many steps, and what it answers."""
    from foveal.cli._training import carry_out
    from foveal.evaluation.questions import blind

    without = _without(job.recipe, {stage["name"]: stage["steps"] for stage in record.told["training"]["stages"]})
    run = place.run(job) / "text_only"
    saved = (run / "config.yaml").is_file()  # by what went on meanwhile
    place.say(f"{job.name}: {'asking' if saved else 'training'} without images")
    told = carry_out(without, run, fresh=False, say=place.say, bar=place.bar)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    loaded, started = _opened(run), time.perf_counter()
    answers = _asked(loaded, blind(asked), job, place, f"{job.name} without images")
    seconds = round(time.perf_counter() - started, 2)
    return {"tokens": 0.0, "seconds": seconds, "answers": answers, "training_seconds": told["seconds"]}


def _without(recipe: Recipe, steps: Mapping[str, int | None]) -> Recipe:
    """The recipe without images, for so many steps of each stage."""
    blind = _recipe.blind(recipe)
    stages = tuple(replace(s, steps=steps[s.name], epochs=None, minutes=None) for s in blind.training.stages)
    return replace(blind, training=replace(blind.training, stages=stages))


def _answered(job: Job, place: Place, spending: Spending, asked: Sequence["Question"]) -> dict[str, Any]:
    """The answers to all questions, and what they cost."""
    loaded = _opened(place.run(job))
    number, view = _spent(loaded, spending, asked)
    shown = SimpleNamespace(model=view, processor=loaded.processor)
    started = time.perf_counter()
    with _cost.memory() as peak:
        answers = _asked(shown, asked, job, place, job.name)
    seconds = round(time.perf_counter() - started, 2)
    looks, flops, tokens = _looked(shown, asked, job)
    return {
        "budget": number,
        "tokens": tokens,
        "seconds": seconds,
        "memory": peak(),
        "flops": flops,
        "answers": answers,
        "looks": looks,
    }


def _opened(run: Path) -> Any:
    from foveal.cli._runs import open_run

    return open_run(run)


def check_data(job: Job) -> None:
    """Raises InputError for data that are not there, or lack the split that is trained on or the one that is asked."""
    from foveal.data.places import locate

    for number, path in enumerate(_examples.paths(job.recipe.data)):
        locate(path, job.recipe.data.split)
        if number == 0:  # which is asked
            locate(path, job.evaluation.split)


def outcome(record: Record) -> str:
    """What came of a job, in words that follow its name."""
    training = record.told.get("training") or {"state": "failed", "error": "it was not begun"}
    if not record.trained:
        said = "was refused" if training["state"] == "refused" else "has failed"
        return f"{said} ({training['error']})"
    lost = [cell for cell in record.cells if cell["state"] != DONE]
    return f"is done, without {len(lost)} of its {len(record.cells)} cells" if lost else "is done"


def questions_of(job: Job) -> tuple["Question", ...]:
    """The questions that all systems are asked."""
    from foveal.data.format import iterate
    from foveal.evaluation.questions import questions

    folder = _examples.data_folder(job.recipe, say=lambda line: None, bar=None)
    return questions(iterate(folder, split=job.evaluation.split), limit=job.evaluation.limit)


def fingerprint(asked: Sequence["Question"]) -> str:
    """What tells one list of questions from another."""
    told = "\n".join(f"{question.id} {question.text} {question.truth}" for question in asked)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _asked(shown: Any, asked: Sequence["Question"], job: Job, place: Place, what: str) -> list[str]:
    from foveal.cli._evaluate import Wanted, ask

    limits: Any = {"batch": job.evaluation.batch, "max_new_tokens": job.evaluation.max_new_tokens}
    return ask(shown, asked, Wanted(run=None, data=Path(), **limits), place.bar, what)


def _spent(loaded: Any, spending: Spending, asked: Sequence["Question"]) -> tuple[int | None, Any]:
    """How many visual tokens a picture may cost, and the model that spends them."""
    from foveal.models.budget import allocator_of, budgeted

    model = loaded.model
    if allocator_of(model) is not None:
        model = budgeted(model, 1, "all")  # one that was trained under budgets keeps none of its own
    if spending.tokens is None:
        return None, model
    number = spending.tokens
    if number < 1:
        first = next(question.example for question in asked if question.example.images)
        number = max(1, round(number * _visual(SimpleNamespace(model=model, processor=loaded.processor), [first])))
    return int(number), budgeted(loaded.model, int(number), spending.strategy, **spending.settings)


def _visual(shown: Any, examples: Sequence[Any]) -> float:
    """The visual tokens of a picture on average, as they are planned."""
    counts: list[int] = []

    def plan(*given: Any, **named: Any) -> Any:
        layout = shown.model.plan(*given, **named)
        counts.extend(layout.counts)
        return layout

    for example in examples:
        shown.processor.prompt([example], plan=plan, room=1)
    return sum(counts) / max(1, len(counts))


def looked_at(asked: Sequence["Question"]) -> list[int]:
    """The questions that are asked one by one: of scenes evenly from first to last, kinds taken in turn."""
    scenes: dict[str, list[int]] = {}
    for row, question in enumerate(asked):
        if question.example.images:
            scenes.setdefault(question.scene, []).append(row)
    names = list(scenes)
    chosen = names if len(names) <= LOOKS else [names[i * len(names) // LOOKS] for i in range(LOOKS)]
    return [scenes[name][turn % len(scenes[name])] for turn, name in enumerate(chosen)]


def _looked(shown: Any, asked: Sequence["Question"], job: Job) -> tuple[dict[str, Any], dict[str, float], float]:
    """Where some answers looked; operations of a question, by part; visual tokens of a picture."""
    from foveal.evaluation.flops import counting
    from foveal.models.talk import answer

    rows, looks = looked_at(asked), {}
    sums: dict[str, float] = {}
    for turn, row in enumerate(rows):
        question = asked[row]
        settings = {"max_new_tokens": job.evaluation.max_new_tokens}
        with counting(shown.model) as flops:
            said = answer(shown.model, shown.processor, list(question.example.images), question.text, **settings)
        if turn < COUNTED:
            for part, count in flops.parts.items():
                sums[part] = sums.get(part, 0.0) + count
        if said.relevance and said.relevance[0] is not None:
            looks[str(row)] = _drawn(said.relevance[0])
    tokens = _visual(shown, [asked[row].example for row in rows[:COUNTED]])
    return looks, {part: count / max(1, min(COUNTED, len(rows))) for part, count in sums.items()}, tokens


def _drawn(one: Any) -> dict[str, Any]:
    """A relevance map as plain numbers: boxes in pixels, shares of the most, by at most `CELLS` cells a side."""
    from torch.nn.functional import adaptive_avg_pool2d

    shares = one.shares.float().cpu()
    shares = adaptive_avg_pool2d(shares[None], tuple(min(CELLS, side) for side in shares.shape))[0]
    shares = (shares / shares.max().clamp(min=1e-12)).mul(100).round().int()
    return {"boxes": one.boxes.round().int().tolist(), "shares": shares.tolist()}
