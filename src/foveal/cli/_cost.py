"""What trainings and answers cost: operations counted, memory measured, and by whom and on what they were done."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.cli._recipe import Recipe
from foveal.training.config import Stage

DRAWS = 12  # batches by which an objective that draws how much it sees is counted: the same draws for every system
PLACES = 200  # of the last stage's order, by which two systems are known to have seen the same


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of a sample in each stage, by part; what tells the order of the last stage; parameters in words."""

    samples: Mapping[str, Mapping[str, float]]
    order: str
    parameters: str

    def total(self, recipe: Recipe) -> dict[str, float]:
        """Operations of a whole training, by part."""
        sums: dict[str, float] = {}
        for stage in recipe.training.stages:
            visits = (stage.steps or 0) * stage.batch_size * stage.accumulate
            for part, count in self.samples[stage.name].items():
                sums[part] = sums.get(part, 0.0) + visits * count
        return sums


def stages(recipe: Recipe, *, say: Callable[[str], None], bar: Any) -> Cost:
    """What a sample costs in each stage: one batch, forward and backward, with its pictures as if nothing were kept.

    Takes the errors of a recipe that cannot be trained.
    """
    from foveal.cli._evaluate import sizes
    from foveal.cli._examples import data_folder, examples
    from foveal.cli._model import model_of
    from foveal.cli._needs import answered
    from foveal.cli._training import Batches

    data = answered(recipe, examples(recipe, data_folder(recipe, say=say, bar=bar)), lambda line: None)
    run = model_of(recipe, data)
    batches = Batches(run, recipe, data, say=say, bar=bar)
    samples, order = {}, ""
    for stage in recipe.training.stages:
        wanted = order_of(recipe, stage, data)
        samples[stage.name] = _sample(
            run, batches, stage, [wanted.at(place) for place in range(stage.batch_size)], data
        )
        seen = [data[row].id for place in range(PLACES) for row in wanted.at(place)]
        order = hashlib.sha256("\n".join(map(str, seen)).encode()).hexdigest()[:16]
    return Cost(samples=samples, order=order, parameters=sizes(run.model))


def order_of(recipe: Recipe, stage: Stage, data: Any) -> Any:
    """The order in which a stage sees its groups."""
    from foveal.training import order

    return order.order_of(stage, data, seed=recipe.training.seed)


def _sample(run: Any, batches: Any, stage: Stage, rows: Any, data: Any) -> dict[str, float]:
    import torch

    from foveal.cli._objectives import objective_of
    from foveal.evaluation.flops import counting
    from foveal.models.parts import encoded
    from foveal.training.lora import adapted
    from foveal.training.objective import objective
    from foveal.training.parts import learning

    model, processor = run.model, batches.processor(stage)
    chosen = [[data[row] for row in group] for group in rows]
    batch = batches(stage)(chosen, 0)
    draws = DRAWS if objective_of(stage)[0] == "budgets" else 1
    with ExitStack() as stack:
        stack.enter_context(adapted(model, stage.lora))
        stack.enter_context(learning(model, stage))
        flops = stack.enter_context(counting(model))
        for draw in range(draws):
            torch.manual_seed(draw)
            objective(stage.objective)(model, batch)[0].backward()
    parts = {name: float(count) / draws for name, count in flops.parts.items()}
    model.zero_grad(set_to_none=True)
    if stage.images == "shown" and "vision" not in parts and model.vision is not None:
        images = list(dict.fromkeys(image for group in chosen for example in group for image in example.images))
        if images:
            with counting(model) as flops:
                encoded(model.vision, processor.pixels(images[:1]))
            parts["vision"] = float(flops.total * len(images))
    return {name: count / len(chosen) for name, count in parts.items()}


@contextmanager
def memory() -> Iterator[Callable[[], int | None]]:
    """Yields what tells the most memory that was held since, in bytes (of the accelerator where there is one)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest so far
    except OSError:
        yield lambda: None
        return
    yield _highest


def _highest() -> int | None:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    found = next((line.split() for line in lines if line.startswith("VmHWM:")), None)
    return int(found[1]) * 1024 if found else None


def made() -> dict[str, Any]:
    """By which code, on which machine."""
    import platform

    import torch
    import transformers

    import foveal
    from foveal.cli._report import hardware

    versions = {"foveal": foveal.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "revision": _revision(),
        "versions": {**versions, "python": platform.python_version()},
        "hardware": hardware(),
    }


def _revision() -> str | None:
    """The revision of the code, with a plus where files differ from it; None outside of a repository."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=20)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
