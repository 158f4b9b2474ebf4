"""What a process holds of a model whose layers several hold together, and how long a step takes: `training.pipeline`.

    python bench/pipeline.py [--processes 2] [--width 512] [--depth 12] [--steps 6] [--rounds 2] [--accumulate 1 2 4]

The model, its data and how it is measured are those of `zero.py`: each training is a launch of its own, on the CPU, one
thread a process. For each number of micro-batches a step, prints the most memory that one process alone holds while it
takes steps and what the fullest of a pipeline holds, and the seconds of a step as a ratio of the two, the median over
rounds; beside it the ratio for processes that have as much to do each and send nothing.
"""

import argparse
import statistics
import sys
from pathlib import Path

from zero import MIB, launched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {"processes": 2, "width": 512, "depth": 12, "steps": 6, "rounds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from foveal.training.plan import waited

    lengths = (1, given.processes)
    for accumulate in given.accumulate:
        hows = {length: {"training": {"pipeline": length}, "stage": {"accumulate": accumulate}} for length in lengths}
        rounds = [{length: launched(given, length, how) for length, how in hows.items()} for _ in range(given.rounds)]
        alone, fullest = (statistics.median(one[length]["held"] for one in rounds) for length in lengths)
        slower = statistics.median(one[given.processes]["seconds"] / one[1]["seconds"] for one in rounds)
        ideal = waited(given.processes, accumulate) / given.processes
        print(
            f"accumulate {accumulate}: one process {alone / MIB:.0f} MiB, the fullest of {given.processes} "
            f"{fullest / MIB:.0f} MiB, {fullest / alone:.2f}x; a step {slower:.2f}x (at best {ideal:.2f}x)"
        )


if __name__ == "__main__":
    main()
