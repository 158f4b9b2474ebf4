"""What benches have in common: a clock, a checkpoint on both sides, sides that take turns, and the line that tells."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Given = dict[str, torch.Tensor]
Seconds = Mapping[str, float]  # of each part


def settings(doc: str, **numbers: int) -> argparse.ArgumentParser:
    """A parser of whole numbers with their defaults, and of --dtype."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    return parser


def clock() -> float:
    """Seconds of this process, which other processes do not disturb; of the wall where threads share the work."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """What a call takes."""
    start = clock()
    action(*arguments)
    return clock() - start


class Reference:
    """A checkpoint in transformers, with its default attention (SDPA)."""

    def __init__(self, kind: str, folder: Path, dtype: torch.dtype, see: Callable[[Any, Given], Any]) -> None:
        import transformers

        self.model = getattr(transformers, kind).from_pretrained(folder, dtype=dtype).eval()
        self.head, self.see = self.model.lm_head, see
        self.model.generation_config.eos_token_id = None

    def vision(self, given: Given) -> None:
        self.see(self.model, given)

    def forward(self, given: Given) -> None:
        self.model(**given, use_cache=False)

    def prefill(self, given: Given) -> None:
        self.model(**given, logits_to_keep=1, use_cache=True)

    def generate(self, given: Given, new: int) -> torch.Tensor:
        return self.model.generate(**given, max_new_tokens=new, min_new_tokens=new, do_sample=False)[:, -new:]


class Loaded:
    """The same checkpoint through `foveal.load`."""

    def __init__(self, folder: Path, dtype: torch.dtype, see: Callable[[Any, Given], Any]) -> None:
        import foveal

        self.wrapped = foveal.load(folder, dtype=dtype)
        self.head, self.see = self.wrapped.model.head, see
        self.wrapped.generation["eos_token_id"] = None

    def vision(self, given: Given) -> None:
        self.see(self.wrapped, given)

    def forward(self, given: Given) -> None:
        self.wrapped(**given)

    def prefill(self, given: Given) -> None:
        cache = self.wrapped.model.language.cache(*given["input_ids"].shape)
        self.wrapped.model(self.wrapped.batch(**given), cache=cache, keep="last")

    def generate(self, given: Given, new: int) -> torch.Tensor:
        return self.wrapped.generate(**given, max_new_tokens=new)


def decoding(side: Reference | Loaded, given: Given, new: int) -> float:
    """Seconds from one token's logits to the next one's while a side generates: the median, without the prefill."""
    ticks: list[float] = []
    hook = side.head.register_forward_hook(lambda *_: ticks.append(clock()))
    side.generate(given, new)
    hook.remove()
    return statistics.median(after - before for before, after in pairwise(ticks))


def passes(side: Reference | Loaded, given: Given, new: int, *, parts: Sequence[str]) -> Seconds:
    """Seconds of one pass of each kind, and of a token that is decoded."""
    return {part: seconds(getattr(side, part), given) for part in parts} | {
        "decode a token": decoding(side, given, new)
    }


def alike(sides: Mapping[str, Reference | Loaded], given: Given, new: int) -> str:
    """How many tokens both sides write alike; warms up too."""
    tokens = {name: side.generate(given, new) for name, side in sides.items()}
    return f"{int((tokens['transformers'] == tokens['foveal']).sum())}/{new} tokens equal"


def turns(sides: Mapping[str, Any], measure: Callable[[Any], Seconds], rounds: int) -> list[dict[str, Seconds]]:
    """Each side measured in its turn, so many rounds."""
    return [{name: measure(side) for name, side in sides.items()} for _ in range(rounds)]


def tell(part: str, taken: Sequence[Mapping[str, Seconds]], *, name: str | None = None, apart: str = "") -> None:
    """Print a part's median ratio of both sides in turns, and their medians."""
    ratio = statistics.median(one["foveal"][part] / one["transformers"][part] for one in taken)
    ours, theirs = (1000 * statistics.median(one[side][part] for one in taken) for side in ("foveal", "transformers"))
    print(f"{name or part:15} {ratio:.2f}x  (foveal {ours:.0f} ms, transformers {theirs:.0f} ms{apart})")


def forwards(
    doc: str,
    kind: str,
    *,
    checkpoint: Callable[[Path], None],
    inputs: Callable[[int, torch.dtype, bool], Given],
    field: str,
    uneven: str,
    rounds: int,
) -> None:
    """A whole bench of one forward pass: batch 1 and 8, even and uneven rows; prints ratios and how far apart they say.

    `inputs(rows, dtype, uneven)` are what both sides are called with, and `field` is what they answer.
    """
    import transformers

    import foveal

    arguments = settings(doc, threads=1, rounds=rounds).parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    print(f"{arguments.dtype}, {arguments.threads} threads, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint(Path(folder))
        theirs = getattr(transformers, kind).from_pretrained(folder, dtype=dtype).eval()
        sides = {"transformers": theirs, "foveal": foveal.load(folder, dtype=dtype)}
        for rows, odd in ((1, False), (1, True), (8, False), (8, True)):
            given = inputs(rows, dtype, odd)
            said = {name: getattr(model(**given), field) for name, model in sides.items()}  # also warms up
            apart = float((said["foveal"] - said["transformers"]).abs().max())
            taken = turns(sides, lambda model, given=given: {"pass": seconds(lambda: model(**given))}, arguments.rounds)
            name = f"batch {rows}{f', {uneven}' if odd else ''}"
            tell("pass", taken, name=name, apart=f", {field.replace('_', ' ')} {apart:.0e} apart")
