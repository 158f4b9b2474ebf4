"""A Q-Former on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/qformer.py [--threads 1] [--rounds 7] [--dtype float32]

That of BLIP-2: 12 layers of width 768, 32 queries over the 257 states of width 1,408 of an image; random weights, batch
1 and 8, images whole and masked. Prints the median of the paired ratios Foveal / transformers (below 1 is better), and
how far the states lie apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

QUERIES, STATES, WIDTH = 32, 257, 1408


def checkpoint(folder: Path) -> None:
    """Write a Q-Former of BLIP-2's size with random weights."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(0)
    Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=WIDTH)).save_pretrained(folder)


def inputs(rows: int, dtype: torch.dtype, *, masked: bool) -> dict[str, torch.Tensor]:
    """Queries and images; where masked, every second image shows half of its states."""
    chance = torch.Generator().manual_seed(0)
    given = {
        "query_embeds": torch.randn(1, QUERIES, 768, generator=chance).to(dtype).expand(rows, -1, -1),
        "encoder_hidden_states": torch.randn(rows, STATES, WIDTH, generator=chance).to(dtype),
    }
    seen = torch.ones(rows, STATES, dtype=torch.long)
    if masked:
        seen[::2, STATES // 2 :] = 0
    return {**given, "encoder_attention_mask": seen}


def clock() -> float:
    """Seconds of this process, which other processes do not disturb; of the wall where threads share the work."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(model: torch.nn.Module, given: dict[str, torch.Tensor]) -> float:
    start = clock()
    model(**given)
    return clock() - start


def report(sides: dict[str, torch.nn.Module], arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    """Measure both sides in turns and print the ratios."""
    print(f"{arguments.dtype}, {arguments.threads} threads, {arguments.rounds} rounds")
    for rows, masked in ((1, False), (1, True), (8, False), (8, True)):
        given = inputs(rows, dtype, masked=masked)
        told = {name: model(**given).last_hidden_state for name, model in sides.items()}  # also warms up
        apart = float((told["foveal"] - told["transformers"]).abs().max())
        taken = [{name: seconds(model, given) for name, model in sides.items()} for _ in range(arguments.rounds)]
        ratio = statistics.median(one["foveal"] / one["transformers"] for one in taken)
        ours, theirs = (1000 * statistics.median(one[name] for one in taken) for name in ("foveal", "transformers"))
        name = f"batch {rows}{', masked' if masked else ''}"
        print(f"{name:15} {ratio:.2f}x  (foveal {ours:.0f} ms, transformers {theirs:.0f} ms, states {apart:.0e} apart)")


def main() -> None:
    from transformers import Blip2QFormerModel

    import foveal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint(Path(folder))
        theirs = Blip2QFormerModel.from_pretrained(folder, dtype=dtype).eval()
        report({"transformers": theirs, "foveal": foveal.load(folder, dtype=dtype)}, arguments, dtype)


if __name__ == "__main__":
    main()
