"""What thinning saves: the prefill of a decoder, dense and with visual tokens that leave on the way, in one run.

    python bench/dense_sparse.py [--threads 1] [--rounds 3] [--by attention] [--dtype float32]

The shape of SmolLM2-135M with random weights, 2,880 image tokens and 64 of text, batch 1, the sides in turns. Prints
how many times faster than dense each schedule is (the median of the paired ratios), how much less memory it takes at
most beside the weights (keys, values and activations: what the process grows by, each in one of its own), and how much
less the cache alone takes.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from _sides import seconds, settings

IMAGE_TOKENS, TEXT_TOKENS, WIDTH, NEW = 2880, 64, 576, 16
AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 17)
}  # what is freed goes back at once: the peak is what is held, not kept
SCHEDULES = {"dense": [1.0], "1, 1/2, 1/4": [1.0, 0.5, 0.25], "1, 1/4, 1/16": [1.0, 0.25, 0.0625]}


class Side:
    """A model of one schedule, and its prefill."""

    def __init__(self, keep: list[float], by: str, dtype: torch.dtype) -> None:
        from foveal.models.causal import assemble
        from foveal.models.config import ModelConfig

        language = {
            "name": "decoder", "vocabulary": 49152, "width": WIDTH, "depth": 30, "heads": 9, "kv_heads": 3,
            "inner": 1536, "context": 8192,
        }  # fmt: skip
        fusion = {"name": "dense_sparse", "keep": keep, "by": by}
        parts = {"features": WIDTH, "connector": "identity", "fusion": fusion, "language": language}
        torch.manual_seed(0)
        self.model = assemble(ModelConfig.parse({**parts, "head": {"name": "language_model", "tied": True}}))
        self.model.eval().to(dtype)
        self.batch, self.warm = batch(dtype, IMAGE_TOKENS), batch(dtype, TEXT_TOKENS)

    def prefill(self, warm: bool = False) -> int:
        """Bytes of the cache that it fills; `warm` reads a small image, so that what is made once is there."""
        given = self.warm if warm else self.batch
        cache = self.model.language.cache(1, given.input_ids.shape[1] + NEW)
        self.model(given, cache=cache, keep="last")
        return cache.size


def batch(dtype: torch.dtype, tokens: int):
    """One image, then text."""
    from foveal.core.types import Batch, Layout, VisualTokens

    generator = torch.Generator().manual_seed(0)
    layout = Layout(counts=(tokens,), grids=(None,))
    features = torch.randn(tokens, WIDTH, generator=generator).to(dtype)
    slots = torch.cat([torch.full((8,), -1), torch.arange(tokens), torch.full((TEXT_TOKENS - 8,), -1)])[None]
    ids = torch.randint(10, 49000, slots.shape, generator=generator)
    valid = torch.ones_like(ids, dtype=torch.bool)
    visual, owner = VisualTokens.on_layout(features, layout), torch.zeros(1, dtype=torch.long)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=visual, owner=owner, full=True)


def resident(what: str) -> float:
    """Megabytes of this process by the kernel's count: VmRSS now, VmHWM at most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def grown(side: Side) -> tuple[float, float]:
    """Megabytes that the process grows by at most in a prefill, and those of the cache alone."""
    side.prefill(warm=True)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    cache = side.prefill()
    return resident("VmHWM") - before, cache / 2**20


def peak(name: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Megabytes of a process of its own at most beside its weights, and of its cache."""
    command = [sys.executable, __file__, "--measure", name, "--by", arguments.by, "--dtype", arguments.dtype]
    command += ["--threads", str(arguments.threads)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | AT_ONCE).stdout.split()
    return float(told[0]), float(told[1])


def main() -> None:
    parser = settings(__doc__, threads=1, rounds=3)
    parser.add_argument("--by", choices=["attention", "learned", "norm", "uniform", "random"], default="attention")
    parser.add_argument("--measure", choices=SCHEDULES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with torch.inference_mode():
        if arguments.measure:
            print(*grown(Side(SCHEDULES[arguments.measure], arguments.by, dtype)))
            return
        report(arguments, dtype)


def report(arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    """Measure the sides in turns and print how each stands beside dense."""
    memory = {name: peak(name, arguments) for name in SCHEDULES}
    sides = {name: Side(keep, arguments.by, dtype) for name, keep in SCHEDULES.items()}
    for side in sides.values():
        side.prefill(warm=True)
    taken = [{name: seconds(side.prefill) for name, side in sides.items()} for _ in range(arguments.rounds)]
    print(f"{arguments.dtype}, {arguments.threads} threads, {arguments.rounds} rounds, by {arguments.by}")
    for name, side in sides.items():
        layers = side.model.plan_by_layer(side.batch.visual.layout)
        ratio = statistics.median(one["dense"] / one[name] for one in taken)
        most, held = (1 - mine / dense for mine, dense in zip(memory[name], memory["dense"], strict=True))
        print(
            f"{name:13} {ratio:.2f}x faster ({statistics.median(one[name] for one in taken):.1f} s), at most "
            f"{most:.0%} less memory ({memory[name][0]:.0f} MB), cache {held:.0%} less ({memory[name][1]:.0f} MB); "
            f"{sum(layers) / len(layers):.0f} visual tokens a layer"
        )


if __name__ == "__main__":
    main()
