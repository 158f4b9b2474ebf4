"""What `foveal plan` says against what training takes: memory above the weights, and seconds a step.

    python bench/plan.py [RECIPE ...] [--steps 24] [--rounds 3] [--count 200] [--threads 1] [--set KEY=VALUE ...]

Every stage of a recipe (demo and vq without one; on so many of the scenes or portraits that it makes) is
planned for so many steps and then trained for these by the loop of `foveal train`, in turns, each in a process of its
own. Memory is the most that the process holds while it trains the stage, above what it holds before: the model is there
by then, its features are computed, every batch was made once, and two steps on one example have loaded what a first
step loads. The plan's weights are so left out. It is measured twice: as it is, with the kernels that oneDNN keeps for
every shape that it has met and with what the loop keeps of freed memory, neither of which is in the plan, and with both
turned off by the environment. Prints planned / measured, the median over rounds.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

from foveal.cli import _recipe, _show
from foveal.cli._cost import memory, order_of
from foveal.cli._planned import planned
from foveal.cli._planner import Wish
from foveal.cli._report import hardware
from foveal.cli._training import Batches, prepared
from foveal.training.config import Stage
from foveal.training.feed import Feed
from foveal.training.loop import train

RECIPES = ("demo", "vq")
MIB = 2**20
BARE = {name: "8" for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")}
BARE |= {name: "131072" for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
LEARNED = 4  # steps between two entries of the log, of which the first are not timed


def recipe_of(name: str, settings: list[str], number: int, steps: int) -> _recipe.Recipe:
    """One stage of a recipe, for so many steps."""
    whole = _recipe.read(name, settings)
    stage = replace(whole.training.stages[number], steps=steps, epochs=None, minutes=None)
    return replace(whole, training=replace(whole.training, stages=(stage,), log_every=LEARNED))


def quiet(what: str, total: int | None) -> object:
    return _show.bar(_show.console(quiet=True), what, total)


def plan(recipe: _recipe.Recipe, threads: int) -> tuple[int, float]:
    """Bytes beside the weights, and seconds of a step, as planned."""
    torch.set_num_threads(threads)
    (stage,) = planned(recipe, Wish(), say=lambda line: None, bar=quiet)["stages"]
    return stage["memory"]["total"] - stage["memory"]["weights"], stage["seconds"]


def take(recipe: _recipe.Recipe, threads: int) -> tuple[int, float]:
    """Bytes above those before the stage, and seconds of a step, as trained."""
    torch.set_num_threads(threads)
    (stage,) = recipe.training.stages
    _, data, run = prepared(recipe, say=lambda line: None, bar=quiet)
    batches = Batches(run, recipe, data, say=lambda line: None, bar=quiet)
    first = replace(stage, name="first", steps=2, batch_size=1, accumulate=1, pack=None)
    before, most = [], []

    def collate(wanted: Stage) -> object:
        made = batches(wanted)
        feed = Feed(data=data, order=order_of(recipe, wanted, data), collate=made, batch_size=wanted.batch_size)
        for number in range(wanted.steps * wanted.accumulate):  # words are known then, and files of features in memory
            feed[number]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before counts as held, and is used again
        Path("/proc/self/clear_refs").write_text("5")  # the most that was held is what is held now
        before.append(resident())
        return made

    with tempfile.TemporaryDirectory() as folder, memory() as held:
        ended = lambda stage: most.append(held())  # noqa: E731
        config = replace(recipe.training, stages=(first, stage))
        train(run.model, data, config=config, collate=collate, out=Path(folder), ended=ended)
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    told = [(row["step"], row["seconds"]) for row in rows if row["stage"] == stage.name]
    return most[-1] - before[-1], (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])


def resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def apart(what: Callable[..., tuple[int, float]], *given: object, **environment: str) -> tuple[int, float]:
    """What a function finds in a process of its own, with a changed environment."""
    with (
        mock.patch.dict(os.environ, environment),
        ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(what, *given).result()


def measure(name: str, settings: list[str], number: int, wanted: argparse.Namespace) -> str:
    """A stage planned and trained in turns, with the ratios."""
    given = recipe_of(name, settings, number, wanted.steps), wanted.threads
    rounds = [(apart(plan, *given), apart(take, *given), apart(take, *given, **BARE)) for _ in range(wanted.rounds)]
    held, spent = (statistics.median(ours[i] for ours, *_ in rounds) for i in (0, 1))
    whole, spends = (statistics.median(theirs[i] for _, theirs, _ in rounds) for i in (0, 1))
    bare = statistics.median(theirs[0] for *_, theirs in rounds)
    ratios = [statistics.median(one[0][i] / one[at][i] for one in rounds) for i, at in ((0, 2), (0, 1), (1, 1))]
    (stage,) = given[0].training.stages
    return (
        f"{name} {stage.name:8} memory {ratios[0]:.2f} ({held / MIB:.0f} / {bare / MIB:.0f} MiB), with what libraries "
        f"keep {ratios[1]:.2f} ({whole / MIB:.0f} MiB), a step {ratios[2]:.2f} ({1000 * spent:.0f} / "
        f"{1000 * spends:.0f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    wanted = parser.parse_args()
    print(f"{hardware()}; {wanted.threads} threads, {wanted.steps} steps, {wanted.rounds} rounds; planned / measured")
    for name in wanted.recipes:
        settings = [f"data.count={wanted.count}", *wanted.set]
        for number in range(len(_recipe.read(name, settings).training.stages)):
            print(measure(name, settings, number, wanted), flush=True)


if __name__ == "__main__":
    main()
