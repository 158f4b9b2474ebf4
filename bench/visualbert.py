"""VisualBERT on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/visualbert.py [--threads 1] [--rounds 5] [--dtype float32]

VisualBERT-base under its VQA head, random weights; 128 text tokens and 36 regions of 2,048 numbers, batch 1 and 8, rows
whole and padded. Prints the median of the paired ratios Foveal / transformers (below 1 is better), and how far the
scores lie apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

WORDS, REGIONS, WIDTH, ANSWERS = 128, 36, 2048, 3129


def checkpoint(folder: Path) -> None:
    """Write a VisualBERT-base with random weights."""
    from transformers import VisualBertConfig, VisualBertForQuestionAnswering

    torch.manual_seed(0)
    config = VisualBertConfig(visual_embedding_dim=WIDTH)
    config.num_labels = ANSWERS
    VisualBertForQuestionAnswering(config).save_pretrained(folder)


def inputs(rows: int, dtype: torch.dtype, *, padded: bool) -> dict[str, torch.Tensor]:
    """Questions about images; where padded, every second row has half the words and half the regions."""
    chance = torch.Generator().manual_seed(0)
    words, seen = torch.ones(rows, WORDS, dtype=torch.long), torch.ones(rows, REGIONS, dtype=torch.long)
    if padded:
        words[::2, WORDS // 2 :] = 0
        seen[::2, REGIONS // 2 :] = 0
    return {
        "input_ids": torch.randint(1000, 30000, (rows, WORDS), generator=chance),
        "visual_embeds": torch.randn(rows, REGIONS, WIDTH, generator=chance).to(dtype),
        "attention_mask": words,
        "visual_attention_mask": seen,
        "token_type_ids": torch.zeros_like(words),
        "visual_token_type_ids": torch.ones_like(seen),
    }


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
    for rows, padded in ((1, False), (1, True), (8, False), (8, True)):
        given = inputs(rows, dtype, padded=padded)
        told = {name: model(**given).logits for name, model in sides.items()}  # also warms up
        apart = float((told["foveal"] - told["transformers"]).abs().max())
        taken = [{name: seconds(model, given) for name, model in sides.items()} for _ in range(arguments.rounds)]
        ratio = statistics.median(one["foveal"] / one["transformers"] for one in taken)
        ours, theirs = (1000 * statistics.median(one[name] for one in taken) for name in ("foveal", "transformers"))
        name = f"batch {rows}{', padded' if padded else ''}"
        print(f"{name:15} {ratio:.2f}x  (foveal {ours:.0f} ms, transformers {theirs:.0f} ms, scores {apart:.0e} apart)")


def main() -> None:
    from transformers import VisualBertForQuestionAnswering

    import foveal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint(Path(folder))
        theirs = VisualBertForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval()
        report({"transformers": theirs, "foveal": foveal.load(folder, dtype=dtype)}, arguments, dtype)


if __name__ == "__main__":
    main()
