"""LLaVA on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/llava.py [--threads 1] [--rounds 5] [--new 32] [--dtype float32]

CLIP-B/16 at 384 px and the shape of SmolLM2-135M, random weights; 576 image tokens and 64 of text, batch 1. Prints the
median of the paired ratios Foveal / transformers (below 1 is better) of the vision encoder, of the whole prefill (with
the last token's logits alone, on both sides), of each decoded token, and of each side's peak memory, which is measured
in a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

IMAGE_TOKENS, TEXT_TOKENS, IMAGE_ID = 576, 64, 49151


def checkpoint(folder: Path) -> None:
    """Write a LLaVA with random weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=384,
        patch_size=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_ID, tie_word_embeddings=True)
    LlavaForConditionalGeneration(config).save_pretrained(folder)


def inputs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One image, then text."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10, 49000, (1, TEXT_TOKENS), generator=generator)
    ids = torch.cat([text[:, :8], torch.full((1, IMAGE_TOKENS), IMAGE_ID), text[:, 8:]], dim=1)
    pixels = torch.randn(1, 3, 384, 384, generator=generator).to(dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class Transformers:
    """The reference, with its default attention (SDPA)."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        self.head = self.model.lm_head
        self.model.generation_config.eos_token_id = None

    def vision(self, given: dict[str, torch.Tensor]) -> None:
        self.model.model.vision_tower(given["pixel_values"], output_hidden_states=True)

    def prefill(self, given: dict[str, torch.Tensor]) -> None:
        self.model(**given, logits_to_keep=1, use_cache=True)

    def generate(self, given: dict[str, torch.Tensor], new: int) -> torch.Tensor:
        return self.model.generate(**given, max_new_tokens=new, min_new_tokens=new, do_sample=False)[:, -new:]


class Foveal:
    """The same checkpoint through `foveal.load`."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        import foveal

        self.wrapped = foveal.load(folder, dtype=dtype)
        self.head = self.wrapped.model.head
        self.wrapped.generation["eos_token_id"] = None

    def vision(self, given: dict[str, torch.Tensor]) -> None:
        self.wrapped.model.vision(self.wrapped.batch(**given).visual)

    def prefill(self, given: dict[str, torch.Tensor]) -> None:
        language = self.wrapped.model.language
        cache = language.cache(1, IMAGE_TOKENS + TEXT_TOKENS)
        self.wrapped.model(self.wrapped.batch(**given), cache=cache, keep="last")

    def generate(self, given: dict[str, torch.Tensor], new: int) -> torch.Tensor:
        return self.wrapped.generate(**given, max_new_tokens=new)


SIDES = {"transformers": Transformers, "foveal": Foveal}


def clock() -> float:
    """Seconds of this process, which other processes do not disturb; of the wall where threads share the work."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(action, *arguments) -> float:
    start = clock()
    action(*arguments)
    return clock() - start


def round_of(side, given: dict[str, torch.Tensor], new: int) -> dict[str, float]:
    """Seconds of one pass of each kind."""
    taken = {"vision": seconds(side.vision, given), "prefill": seconds(side.prefill, given)}
    return taken | {"decode a token": decoding(side, given, new)}


def decoding(side, given: dict[str, torch.Tensor], new: int) -> float:
    """Seconds from one token's logits to the next one's while a side generates: the median, without the prefill."""
    ticks: list[float] = []
    hook = side.head.register_forward_hook(lambda *_: ticks.append(clock()))
    side.generate(given, new)
    hook.remove()
    return statistics.median(after - before for before, after in pairwise(ticks))


def peak(name: str, folder: Path, arguments: argparse.Namespace) -> float:
    """Peak resident megabytes of a process that loads the model and generates."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--new", str(arguments.new)]
    command += ["--threads", str(arguments.threads), "--dtype", arguments.dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        checkpoint(arguments.folder)
        return
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with torch.inference_mode():
        if arguments.measure:
            SIDES[arguments.measure](arguments.folder, dtype).generate(inputs(dtype), arguments.new)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "--write", "--folder", folder], check=True)
            report(Path(folder), arguments, dtype)


def report(folder: Path, arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    """Measure both sides in turns and print the ratios."""
    memory = {name: peak(name, folder, arguments) for name in SIDES}  # first: a child counts its parent's peak too
    given = inputs(dtype)
    sides = {name: side(folder, dtype) for name, side in SIDES.items()}
    tokens = {name: side.generate(given, arguments.new) for name, side in sides.items()}  # also warms up
    same = int((tokens["transformers"] == tokens["foveal"]).sum())
    taken = [
        {name: round_of(side, given, arguments.new) for name, side in sides.items()} for _ in range(arguments.rounds)
    ]
    threads, rounds = arguments.threads, arguments.rounds
    print(f"{arguments.dtype}, {threads} threads, {rounds} rounds; {same}/{arguments.new} tokens equal")
    for part in taken[0]["foveal"]:
        ratio = statistics.median(one["foveal"][part] / one["transformers"][part] for one in taken)
        ours, theirs = (
            1000 * statistics.median(one[name][part] for one in taken) for name in ("foveal", "transformers")
        )
        print(f"{part:15} {ratio:.2f}x  (foveal {ours:.0f} ms, transformers {theirs:.0f} ms)")
    ours, theirs = memory["foveal"], memory["transformers"]
    print(f"{'peak memory':15} {ours / theirs:.2f}x  (foveal {ours:.0f} MB, transformers {theirs:.0f} MB)")


if __name__ == "__main__":
    main()
