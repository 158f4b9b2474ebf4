"""What a run keeps under budgets of visual tokens, by every strategy: the page docs/relevance_proof.md is its output.

    python bench/relevance.py [--run RUN] [--data DATA] [--limit 100] [--shares 0.25,0.11,0.06,0.03] [--strategies all]
        [--draws 5] [--rounds 5] [--side 1024] [--batch 64] [--answers FILE ...] [--out PAGE.md]

Without --run it is the starter model, without --data scenes are made first. Asks all questions with all tokens and by
every strategy at every budget, those of lots several times; lets other questions steer; times the first token, a
question a round, on pictures of the run's own size and of a larger --side (the same weights, a longer context), sides
in turn; `--rounds 0` leaves times out. Prints the page, or writes it to --out.

Answers that an --answers file holds are not asked again, and those that were asked are added to the first such file: so
strategies may be asked by several processes, or on an accelerator, and times be taken elsewhere.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from foveal.cli._budgets import spend
from foveal.cli._cost import made
from foveal.cli._evaluate import Wanted, ask, asked_of, text_only_run
from foveal.cli._runs import open_run
from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.core.lookup import names, spec
from foveal.evaluation.latency import alternating, first_token
from foveal.evaluation.proof import Proof, page
from foveal.evaluation.questions import Question, blind
from foveal.evaluation.score import score
from foveal.evaluation.spending import Spent
from foveal.models.assembly import assemble
from foveal.models.budget import ROOM, budgeted, lacking, unspent
from foveal.preprocess.processor import Processor
from foveal.weights.run import Run

FIRST = ["foveal", "downsample", "average_pool", "grid", "random"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--shares", default="0.25,0.11,0.06,0.03")
    parser.add_argument("--strategies", default="all")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="fewer take less memory where pictures are large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or scenes(Path(folder) / "scenes")
        told = page(proof(arguments, data))
    if arguments.out is None:
        print(told)
    else:
        arguments.out.write_text(told, encoding="utf-8")


def proof(arguments: argparse.Namespace, data: Path) -> Proof:
    """Ask, time, and gather what the page shows."""
    loaded = open_run(arguments.run)
    total, side = spread(loaded, data)
    budgets = {float(share): max(1, round(float(share) * total)) for share in arguments.shares.split(",")}
    known = [name for name in names(ROOM) if name != "all" and name not in FIRST]
    strategies = [*FIRST, *known] if arguments.strategies == "all" else arguments.strategies.split(",")
    wanted = Wanted(
        run=arguments.run, data=data, limit=arguments.limit, max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed, draws=arguments.draws, controls=True, batch=arguments.batch,
    )  # fmt: skip
    pairs = [(name, budget) for name in strategies for budget in budgets.values()]
    asked, rows, by = answered(loaded, wanted, pairs, arguments.answers)
    twin = text_only_run(wanted)
    return Proof(
        asked=asked,
        rows=rows,
        budgets=budgets,
        text_only=None if twin is None else unseen(open_run(twin), wanted),
        times=times(loaded, wanted, pairs, arguments) if arguments.rounds else {},
        commands=commands(arguments, data, loaded),
        made=about(arguments, data, loaded, by),
        limits=limits(side, arguments, loaded),
    )


def answered(
    loaded: Any, wanted: Wanted, pairs: list[tuple[str, int]], files: list[Path]
) -> tuple[Sequence[Question], list[Spent], str]:
    """The questions, their answers with all tokens and by every pair, and on what machines these were given."""
    known, machines = {}, set[str]()
    for told in (json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()):
        known |= {
            (row.strategy, row.budget): row for row in (parse(Spent, one, where="answers") for one in told["rows"])
        }
        machines |= set(told["machines"])
    left = [pair for pair in pairs if pair not in known]
    if left or ("all", None) not in known:
        found = spend(loaded, wanted, left, progress=telling)
        asked, known = found.asked, {(row.strategy, row.budget): row for row in found.rows} | known
        machines.add(made()["hardware"])
    else:
        asked = asked_of(loaded, wanted)
    if files:
        told = {"machines": sorted(machines), "rows": [dump(row) for row in known.values()]}
        files[0].write_text(json.dumps(told), encoding="utf-8")
    return asked, [known["all", None], *(known[pair] for pair in pairs)], "; ".join(sorted(machines))


def spread(loaded: Any, data: Path) -> tuple[int, int]:
    """How many visual tokens the first picture has, and its longer side in pixels as it is read."""
    (question, *_) = asked_of(loaded, Wanted(run=None, data=data, limit=1))
    totals: list[int] = []

    def plan(*given: Any, **named: Any) -> Any:
        layout = unspent(loaded.model).plan(*given, **named)
        totals.append(layout.total)
        return layout

    loaded.processor.prompt([question.example], plan=plan, room=1)
    image = loaded.processor.config.image
    if image.tiling is None:
        return totals[-1], image.grid[0]
    with Image.open(question.example.images[0]) as picture:
        return totals[-1], max(picture.size)


def scenes(out: Path) -> Path:
    """Scenes as the starter model knows them, which it has not seen."""
    from foveal.data.generate import SceneConfig, write_scenes

    write_scenes(out, SceneConfig(seed=1, size=256, drawings=60), count=300)
    return out


@contextmanager
def telling(what: str, total: int):
    """Say on standard error what was done, and how long it took."""
    start = time.perf_counter()
    yield lambda number: None
    print(f"{what}: {total:,} questions, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def unseen(twin: Any, wanted: Wanted):
    """The scores of a run without images."""
    asked = asked_of(twin, wanted)
    return score(asked, ask(twin, blind(asked), wanted, telling, "without images"))


def times(loaded: Any, wanted: Wanted, pairs: list[tuple[str, int]], arguments: argparse.Namespace) -> dict[int, Any]:
    """The times at the run's own size, and at the larger side, where tokens are the same shares of more."""
    torch.set_num_threads(1)
    total, own = spread(loaded, wanted.data)
    found: dict[int, Any] = {}
    for side in dict.fromkeys((own,) if loaded.processor.config.image.tiling else (own, arguments.side)):
        try:
            larger = loaded if side == own else enlarged(loaded, side)
            grown = total if side == own else unspent(larger.model).plan([larger.processor.config.image.grid]).total
            shares = [max(1, round(float(share) * grown)) for share in arguments.shares.split(",")]
            chosen = pairs if side == own else [(name, budget) for name in FIRST for budget in shares]
            found[side] = timed(larger, wanted, chosen, arguments.rounds)
        except InputError as error:
            found[side] = str(error)
    return found


def timed(loaded: Any, wanted: Wanted, pairs: list[tuple[str, int]], rounds: int) -> dict[Any, Any]:
    """The first token of a question a round, by every one of these strategies that the run allows."""
    asked = asked_of(loaded, wanted)
    questions = [asked[len(asked) * number // rounds] for number in range(rounds)]  # of all that are asked, spread
    sides = {("all", None): asking(loaded, unspent(loaded.model), questions)}
    for name, budget in pairs:
        if lacking(loaded.model, budget, name) is None:
            sides[name, budget] = asking(loaded, budgeted(loaded.model, budget, name), questions)
    return alternating(sides, rounds=rounds)


def asking(loaded: Any, model: Any, questions: Any):
    """What asks a model for one token, of one question after the other."""
    turn, device = cycle([questions[-1], *questions[:-1]]), next(model.parameters()).device  # the first is not counted

    def ask_next():
        batch = loaded.processor.prompt([next(turn).example], plan=model.plan, room=1)
        return first_token(model, batch.to(device), clock=clock)

    return ask_next


def clock() -> float:
    """Seconds of this process, which other processes do not disturb; of the wall beside an accelerator."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def enlarged(loaded: Any, side: int) -> Any:
    """The same weights for pictures of another side, with a context that holds them."""
    config, image = loaded.model.config, loaded.processor.config.image
    patches = unspent(loaded.model).plan([image.grid]).total * (side / image.grid[0]) ** 2
    context = int(patches) + loaded.processor.config.context
    language = spec("language", {"name": config.language.name, **dump(config.language.settings), "context": context})
    model = assemble(replace(config, language=language)).eval()
    model.load_state_dict(loaded.model.state_dict())
    settings = replace(loaded.processor.config, image=replace(image, size=side), context=context)
    device = next(loaded.model.parameters()).device
    return Run(model.to(device), Processor(tokenizer=loaded.processor.tokenizer, config=settings))


def commands(arguments: argparse.Namespace, data: Path, loaded: Any) -> list[str]:
    """What makes the page again, from data and training on."""
    lines = []
    if arguments.data is not None and (data / "dataset.json").is_file():
        kept = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
        settings = {"count": kept["count"], **kept["config"]}
        options = [f"--{name} {settings[name]}" for name in ("count", "seed", "size", "drawings", "words")]
        options += [f"--detail {settings['detail']}"] if settings.get("detail", 1) != 1 else []
        lines.append(f"foveal data scenes {data.name} {' '.join(options)}")
    if arguments.run is not None and "recipe" in loaded.about:
        lines.append(
            f"foveal train {loaded.about['recipe']} --out {arguments.run.name} {' '.join(overridden(loaded.about))}"
        )
    named = {"run": arguments.run, "data": arguments.data, "out": arguments.out}
    given = [f"--{name} {value.name}" for name, value in named.items() if value is not None]
    numbers = [f"--{name} {getattr(arguments, name)}" for name in ("limit", "draws", "rounds", "side", "seed")]
    strategies = [] if arguments.strategies == "all" else [f"--strategies {arguments.strategies}"]
    longest = [f"--max-new-tokens {arguments.max_new_tokens}"] if arguments.max_new_tokens != 32 else []
    longest += [f"--batch {arguments.batch}"] if arguments.batch != 64 else []
    return [*lines, " ".join(["python bench/relevance.py", *given, *numbers, *strategies, *longest])]


def overridden(told: Any) -> list[str]:
    """How a training's length is told to its command: scenes, and the steps of a single stage."""
    count, stages = (told.get("data") or {}).get("count"), told.get("stages") or ()
    scenes = [f"data.count={count}"] if count else []
    return [*scenes, f"training.stages.0.steps={told['steps']}"] if len(stages) == 1 else scenes


def about(arguments: argparse.Namespace, data: Path, loaded: Any, answered_by: str) -> dict[str, str]:
    """Who answered, by which code, on which machines."""
    by, steps = made(), loaded.about.get("steps")
    trained = f", {steps:,} steps" if steps else ""
    return {
        "run": f"{arguments.run.name if arguments.run else 'starter'} (recipe {loaded.about.get('recipe')}{trained})",
        "data": data.name,
        "seed": str(arguments.seed),
        "revision": f"{by['revision']} (a plus: files differed from it)",
        "hardware": by["hardware"] + ("" if answered_by == by["hardware"] else f" (times); {answered_by} (answers)"),
        "versions": ", ".join(f"{name} {version}" for name, version in by["versions"].items()),
        "times": f"{arguments.rounds} rounds, one thread, float32, seconds of the process"
        if arguments.rounds
        else "none",
    }


def limits(side: int, arguments: argparse.Namespace, loaded: Any) -> list[str]:
    """What the page does not show."""
    millions = sum(weight.numel() for weight in loaded.model.parameters()) / 1e6
    found = [
        f"It is a small model ({millions:.1f} million parameters) and made scenes of {side:,} px"
        + ("" if side >= 1024 else ", where the aims are of pictures of 1,024 px")
        + ";\n  nothing here says how a large model does on photographs.",
        "It is one training with one seed: intervals are over scenes, not over trainings.",
    ]
    if loaded.model.config.allocator is not None:
        found.append(
            f"The run was trained under budgets of its own allocator ({loaded.model.config.allocator.name}): it has "
            "never read what other strategies\n  leave of a picture, which tells against these."
        )
    if arguments.rounds and arguments.side != side and loaded.processor.config.image.tiling is None:
        found.append(
            f"Times at {arguments.side:,} px are of the same weights with a longer context: the model was not trained "
            "at that size, and no accuracy\n  is claimed there."
        )
    if not arguments.rounds:
        found.append("No times were measured.")
    return found


if __name__ == "__main__":
    main()
