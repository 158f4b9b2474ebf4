"""`foveal train` on several nodes of a Ray cluster: torchrun on each, of which the first is where all meet.

    python -m foveal.ray_train --nodes 2 --processes 8 --gpus 8 -- RECIPE --data DATA --out RUN

What follows `--` is what `foveal train` takes. Data and run lie where every node reads and writes them.
"""

import argparse
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def command(words: Sequence[str], *, nodes: int, rank: int, processes: int, meet: str) -> list[str]:
    """What a node runs."""
    ways = {"nnodes": nodes, "node-rank": rank, "nproc-per-node": processes}
    host, port = meet.rsplit(":", 1)
    ways |= {"master-addr": host, "master-port": port}
    told = [f"--{name}={value}" for name, value in ways.items()]
    return [sys.executable, "-m", "torch.distributed.run", *told, "-m", "foveal", "train", *words]


def _free() -> str:
    """Where the others find this node: its address, and a port that is free."""
    import ray

    with socket.socket() as tried:
        tried.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{tried.getsockname()[1]}"


def _run(words: list[str]) -> int:
    return subprocess.run(words).returncode


def train(words: Sequence[str], *, nodes: int, processes: int, cpus: int, gpus: int) -> int:
    """Run it on so many nodes, with so many processes on each; returns the worst exit code."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(log_to_driver=True)
    bundle: dict[str, float] = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    # SPREAD, not STRICT_SPREAD: bundles that fill their node lie apart, and others may share a large one
    group = ray.util.placement_group([bundle] * nodes, strategy="SPREAD")
    ray.get(group.ready())

    def at(rank: int) -> dict[str, Any]:
        place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
        return {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": place, "max_retries": 0}

    meet = ray.get(ray.remote(_free).options(**at(0)).remote())
    lines = [command(words, nodes=nodes, rank=rank, processes=processes, meet=meet) for rank in range(nodes)]
    codes = ray.get([ray.remote(_run).options(**at(rank)).remote(line) for rank, line in enumerate(lines)])
    ray.shutdown()
    return max(abs(code) for code in codes)


def main(given: Sequence[str]) -> int:
    """The command line of this file."""
    reader = argparse.ArgumentParser(prog="python -m foveal.ray_train")
    for name, about in {"nodes": "nodes", "processes": "of each", "cpus": "cores of each"}.items():
        reader.add_argument(f"--{name}", type=int, default=1, help=about)
    reader.add_argument("--gpus", type=int, default=0, help="accelerators of each")
    reader.add_argument("words", nargs="+", help="-- and what foveal train takes")
    return train(**vars(reader.parse_args(given)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
