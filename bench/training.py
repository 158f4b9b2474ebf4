"""A training step on the CPU: Foveal with cached features against transformers, same weights, dtype and threads.

    python bench/training.py [--threads 1] [--rounds 3] [--batch 1] [--both-keep]

The LLaVA of bench/llava.py (CLIP-B/16 at 384 px, the shape of SmolLM2-135M, random weights) with a frozen encoder: its
projector trains alone (stage one of LLaVA) or with the language model (stage two). A step is forward, backward, clip
and AdamW on 576 image tokens and 64 of text, 32 of them labelled. transformers encodes the image at every step; Foveal
has encoded it once, computes logits at labelled tokens alone, and keeps freed memory, as its training loop does; with
`--both-keep` transformers does as well. Sides alternate in one run, each in a process of its own; prints the median of
the paired ratios Foveal / transformers (below 1 is better) of times and of peak memory, and the losses, which must
agree.
"""

import argparse
import resource
import statistics
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from _sides import clock
from accelerate import Accelerator
from llava import checkpoint, inputs

import foveal
from foveal.training.config import Stage
from foveal.training.loop import objective
from foveal.training.memory import memory_kept
from foveal.training.parts import learning, optimizer
from foveal.training.step import Scored, take

RATE, CLIP, LABELLED = 1e-5, 1.0, 32
STAGES = {"projector": ("connector",), "projector + language": ("connector", "language", "head")}


def batch(size: int) -> dict[str, torch.Tensor]:
    """Rows with one image each, and labels on the last words."""
    given = {name: torch.cat([value] * size) for name, value in inputs(torch.float32).items()}
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, -LABELLED:] = given["input_ids"][:, -LABELLED:]
    return {**given, "labels": labels}


class Transformers:
    """The reference's own forward and loss, and the step that its documentation writes."""

    def __init__(self, folder: Path, trained: tuple[str, ...], given: dict[str, torch.Tensor]) -> None:
        from transformers import LlavaForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.model.vision_tower.requires_grad_(False)
        if "language" not in trained:
            self.model.model.language_model.requires_grad_(False)
        self.given = given
        self.chosen = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.adam = torch.optim.AdamW(self.chosen, lr=RATE, weight_decay=0.0)

    def step(self) -> float:
        loss = self.model(**self.given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.chosen, CLIP)
        self.adam.step()
        self.adam.zero_grad()
        return loss.item()


class Foveal:
    """The same checkpoint, and the step of the training loop."""

    def __init__(self, folder: Path, trained: tuple[str, ...], given: dict[str, torch.Tensor]) -> None:
        wrapped = foveal.load(folder, dtype=torch.float32)
        self.batch = wrapped.batch(**given)
        with torch.no_grad():
            self.batch = replace(self.batch, visual=wrapped.model.vision(self.batch.visual))
        stage = Stage(steps=1, train=trained, rate=RATE, weight_decay=0.0, betas=(0.9, 0.999))
        self.held = learning(wrapped.model, stage)
        self.chosen = self.held.__enter__()
        self.accelerator = Accelerator(mixed_precision="no", cpu=True)
        scored = Scored(wrapped.model, objective("next_token"), precision="fp32")
        self.scored, self.adam = self.accelerator.prepare(scored, optimizer(wrapped.model, self.chosen, stage))

    def step(self) -> float:
        taken = take(self.accelerator, self.scored, self.chosen, [self.batch], clip=CLIP, told=())
        self.adam.step()
        self.adam.zero_grad()
        return (taken.loss / taken.count).item()


class Apart:
    """One side in a process of its own, whose memory is not shaped by the other's."""

    def __init__(self, side: str, *settings: object) -> None:
        context = get_context("spawn")
        self.steps, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, side, *settings), daemon=True)
        self.process.start()
        there.close()  # so that a step which never comes is an error, and not a wait

    def step(self) -> tuple[float, float]:
        """Seconds and loss of the next step."""
        self.steps.send(True)
        return self.steps.recv()

    def end(self) -> int:
        """The most memory that the process has held, in KiB; it ends."""
        self.steps.send(False)
        most = self.steps.recv()
        self.process.join()
        return most


def serve(steps: Connection, side: str, folder: Path, trained: tuple[str, ...], chosen: argparse.Namespace) -> None:
    """Do a step for each that is asked for: Foveal's within what its training loop keeps."""
    torch.set_num_threads(chosen.threads)
    with memory_kept() if side == "Foveal" or chosen.both_keep else nullcontext():
        found = {"Foveal": Foveal, "Transformers": Transformers}[side](folder, trained, batch(chosen.batch))
        while steps.recv():
            start = clock()
            loss = found.step()
            steps.send((clock() - start, loss))
    steps.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(folder: Path, name: str, arguments: argparse.Namespace) -> None:
    """Both sides in turns on one stage, and the ratio."""
    sides = [Apart(side, folder, STAGES[name], arguments) for side in ("Foveal", "Transformers")]
    for side in [*sides, *sides]:
        side.step()  # warms up
    rounds = [[side.step() for side in sides] for _ in range(arguments.rounds)]
    most = [side.end() for side in sides]
    ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in rounds)
    ours, theirs = (1000 * statistics.median(one[side][0] for one in rounds) for side in (0, 1))
    apart = max(abs(mine[1] - other[1]) for mine, other in rounds)
    print(
        f"{name:22} {ratio:.2f}x  (foveal {ours:.0f} ms, transformers {theirs:.0f} ms; losses differ by {apart:.1e}), "
        f"memory {most[0] / most[1]:.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--both-keep", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder))
        print(f"float32, {arguments.threads} threads, {arguments.rounds} rounds, batch {arguments.batch}")
        for name in STAGES:
            measure(Path(folder), name, arguments)


if __name__ == "__main__":
    main()
