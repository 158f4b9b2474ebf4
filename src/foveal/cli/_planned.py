"""What a training will need, stage by stage and in all, as plain data; and what would fit where it does not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from foveal.cli import _unseen
from foveal.cli._planner import Planner, Wish
from foveal.cli._recipe import Recipe
from foveal.cli._training import check_stages
from foveal.core.errors import InputError
from foveal.training.plan import devices_that_fit, shared, waited, zero_that_fits

if TYPE_CHECKING:
    from foveal.cli._passing import Encoding
    from foveal.training.plan import Held

TERA, HOUR = 1e12, 3600.0


def planned(recipe: Recipe, wish: Wish, *, say: Callable[[str], None], bar: Any) -> dict[str, Any]:
    """The plan of a recipe; takes the errors of one that cannot be trained."""
    import torch

    from foveal.cli._report import hardware

    with TemporaryDirectory() as folder:
        planner = Planner(recipe, wish, Path(folder), say=say, bar=bar)
        stages = [_stage(planner, number) for number in range(len(recipe.training.stages))]
    made = {"hardware": hardware(), "device": planner.device.type, "threads": torch.get_num_threads()}
    told = {"recipe": recipe.name, "data": str(planner.data_folder), "for": {**vars(wish), **made}}
    return {**told, "stages": stages, "total": _total(stages, recipe.training.max_minutes)}


def _total(stages: Sequence[dict[str, Any]], max_minutes: float | None) -> dict[str, Any]:
    """All stages together: sums, and the most memory of any; training ends at `max_minutes`."""
    names = ("samples", "examples", "steps", "hours")
    sums: dict[str, Any] = {name: sum(stage[name] for stage in stages) for name in names}
    if max_minutes is not None:
        sums["hours"] = min(sums["hours"], max_minutes / 60)
    features = sum(stage["features"]["hours"] for stage in stages if stage["features"] is not None)
    return {
        **sums,
        "tokens": sum(stage["tokens"]["all"] for stage in stages),
        "operations": sum(stage["operations"] * stage["steps"] for stage in stages),
        "features": features,
        "hours": sums["hours"] + features,
        "memory": max(stage["memory"]["total"] for stage in stages),
    }


def _stage(planner: Planner, number: int) -> dict[str, Any]:
    stage, wish = planner.recipe.training.stages[number], planner.wish
    before, sizes = set(planner.batches.encodings), planner.sizes(stage)
    largest = _unseen.largest(sizes)
    held, work = planner.held(stage, largest), planner.work(stage, sizes)
    memory = shared(held, **_share(wish))
    fits = None if wish.memory is None else memory.total <= wish.memory
    seconds = work.seconds
    if wish.speed is not None:  # nothing was timed
        seconds = work.operations / (TERA * wish.speed) * waited(wish.pipeline, stage.accumulate)
    assert seconds is not None
    steps = planner.steps(stage) or max(1, round(60 * (stage.minutes or 0.0) / seconds))
    micros = stage.accumulate * wish.groups
    tokens = fmean(size.tokens for size in sizes) * micros
    encodings = [told for name, told in planner.batches.encodings.items() if name not in before]
    return {
        "name": stage.name,
        "steps": steps,
        "samples": steps * micros * stage.batch_size,
        "examples": round(steps * micros * fmean(size.examples for size in sizes)),
        "looked_at": {"batches": len(sizes), "of": steps * micros},
        "tokens": {**_unseen.plain(sizes, visits=stage.batch_size), "step": tokens, "all": round(tokens * steps)},
        "parameters": {"all": work.parameters, "trained": work.trained},
        "memory": {name: part for name, part in vars(memory).items() if name != "layer"} | {"total": memory.total},
        "fits": fits,
        "advice": _advised(planner, number, held, largest) if fits is False else [],
        "operations": work.operations * wish.devices,
        "seconds": seconds,
        "measured": wish.speed is None,
        "hours": (60 * stage.minutes if stage.minutes is not None else steps * seconds) / HOUR,
        "features": _features(encodings, wish) if encodings else None,
    }


def _features(encodings: "Sequence[Encoding]", wish: Wish) -> dict[str, Any]:
    """What it takes to have an encoder see every image once, before a stage begins."""
    operations = sum(one.images * one.operations for one in encodings)
    timed = sum(one.images * one.seconds for one in encodings)
    seconds = timed if wish.speed is None else operations / (TERA * wish.speed)
    images = sum(one.images for one in encodings)
    return {"images": images, "operations": operations, "hours": seconds / wish.devices / HOUR}


def _advised(planner: Planner, number: int, held: "Held", largest: Sequence[int]) -> list[dict[str, Any]]:
    """Settings near those of a stage by which it fits, each tried: smaller batches that add up to as many, or devices
    that share more; where neither is enough, both."""
    wish, settings, smallest, found = planner.wish, [], held, []
    assert wish.memory is not None
    for settings, smallest in _smaller(planner, number, largest):
        total = shared(smallest, **_share(wish)).total
        if total <= wish.memory:
            found.append({"settings": settings, "total": total})
            break
    if wish.pipeline > 1:
        return found
    return [*found, *_sharing(held, wish, [])] or _sharing(smallest, wish, settings)


def _share(wish: Wish) -> dict[str, int]:
    """How devices share what is held; those of a pipeline have parts of their own, and the fullest is told."""
    return {"devices": wish.groups if wish.pipeline == 1 else 1, "zero": wish.zero}


def _smaller(planner: Planner, number: int, largest: Sequence[int]) -> Iterator[tuple[list[str], "Held"]]:
    """What a stage holds with smaller micro-batches, of which a step adds up more, as far as it can be trained so."""
    stage = planner.recipe.training.stages[number]
    for size in range(stage.batch_size // 2, 0, -1):
        times, rest = divmod(stage.batch_size, size)
        changed = {"batch_size": size, "accumulate": times * stage.accumulate}
        if not rest:
            try:
                smaller = replace(stage, **changed)
                check_stages(planner.run, planner.batches, (smaller,), begun=False)
                held = planner.held(smaller, planner.largest(smaller, stage, largest))
            except InputError:
                continue
            yield [f"training.stages.{number}.{key}={value}" for key, value in changed.items()], held


def _sharing(held: "Held", wish: Wish, settings: Sequence[str]) -> list[dict[str, Any]]:
    """The lowest higher stage of ZeRO that fits, and the fewest more devices, beside other settings."""
    assert wish.memory is not None
    near = {"devices": wish.groups, "zero": wish.zero}
    higher = zero_that_fits(held, wish.memory, **near)
    ways = [] if higher is None else [{**near, "zero": higher}]
    for zero in dict.fromkeys((wish.zero, 3)):
        many = devices_that_fit(held, wish.memory, devices=wish.groups, zero=zero)
        if many is not None and (zero == wish.zero or not ways):
            ways.append({"devices": many, "zero": zero})
    return [
        {
            "settings": [
                *settings,
                *([f"--gpus {way['devices'] * wish.tensor}"] if way["devices"] != wish.groups else []),
                *([f"--zero {way['zero']}"] if way["zero"] != wish.zero else []),
            ],
            "total": shared(held, **way).total,
        }
        for way in ways
    ]
