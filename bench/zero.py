"""What processes hold of a model when they share it, and what that costs: `training.zero` 0, 2, 3; `training.tensor`.

    python bench/zero.py [--processes 2] [--width 512] [--depth 12] [--steps 6] [--rounds 2]

A LLaVA-like model with a decoder of that width and depth learns all but its encoder from pictures of one colour. Each
training is a launch of its own, on the CPU, one thread a process, freed memory given back (`zero` 0 keeps it, unless
the environment says so). With `tensor` all processes split layers over one micro-batch of as many examples as theirs
together have else. Prints the most memory that a process holds while it takes steps, less what it held before
there was a model, in MiB and as a share of that without sharing; and the seconds of a step as such a ratio, the median
over rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

GIVEN_BACK = {name: "131072" for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
GIVEN_BACK |= {name: "8" for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")}
MIB = 2**20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def learn(out: Path, width: int, depth: int, steps: int, how: dict[str, dict[str, int]]) -> None:
    """One training in one of the processes, by settings of its own; writes what it held and how long it took."""
    from unittest import mock

    from tests.training.conftest import built

    from foveal.training import loop
    from foveal.training.config import Stage, TrainingConfig
    from foveal.training.processes import accelerator, part

    rank = accelerator("cpu").process_index
    world = built(out / f"world{rank}")
    before, highest = resident(), [0]
    model = world.model(width=width, depth=depth, heads=width // 64, inner=4 * width)
    whole, watched = sum(one.numel() * one.element_size() for one in model.parameters()), loop._Run._steps
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    def taken(*given) -> None:
        threading.Thread(target=watch, daemon=True).start()
        start = time.perf_counter()
        watched(*given)
        done.set()
        told = {"held": highest[0] - before, "seconds": (time.perf_counter() - start) / steps, "weights": whole}
        (out / f"told{rank}.json").write_text(json.dumps(told))

    stage = Stage(steps=steps, train=("connector", "language", "head"), **{"batch_size": 2, **how.get("stage", {})})
    config = TrainingConfig(stages=(stage,), device="cpu", checkpoint_minutes=60.0, **how["training"])
    with mock.patch.object(loop._Run, "_steps", taken):
        loop.train(model, world.data, config=config, collate=world.collate(model), out=out / "run")
    part()


def launched(arguments: argparse.Namespace, processes: int, how: dict[str, dict[str, int]]) -> dict[str, float]:
    """What the process held that held the most, and the seconds of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher += ["--local-addr=127.0.0.1"]
        own = [__file__, "--learn", folder, "--how", json.dumps(how), "--width", str(arguments.width)]
        own += ["--depth", str(arguments.depth), "--steps", str(arguments.steps)]
        near = {
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **GIVEN_BACK,
        }
        subprocess.run([sys.executable, *launcher, *own], env=os.environ | near, check=True, capture_output=True)
        told = [json.loads(path.read_text()) for path in Path(folder).glob("told*.json")]
    return max(told, key=lambda one: one["held"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--learn", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if given.learn is not None:
        return learn(given.learn, given.width, given.depth, given.steps, given.how)
    ways = {f"zero {zero}": {"training": {"zero": zero}} for zero in (0, 2, 3)}
    split = {"training": {"tensor": given.processes}, "stage": {"batch_size": 2 * given.processes}}
    ways[f"tensor {given.processes}"] = split
    rounds = [{way: launched(given, given.processes, how) for way, how in ways.items()} for _ in range(given.rounds)]
    print(f"{given.processes} processes, weights {rounds[0]['zero 0']['weights'] / MIB:.0f} MiB, {given.rounds} rounds")
    for way in ways:
        held = statistics.median(one[way]["held"] for one in rounds)
        share, slower = (
            statistics.median(one[way][what] / one["zero 0"][what] for one in rounds) for what in ("held", "seconds")
        )
        print(f"{way}: {held / MIB:.0f} MiB, {share:.2f}x; a step {slower:.2f}x")


if __name__ == "__main__":
    main()
