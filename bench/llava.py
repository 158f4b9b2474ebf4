"""LLaVA on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/llava.py [--threads 1] [--rounds 5] [--new 32] [--dtype float32]

CLIP-B/16 at 384 px and the shape of SmolLM2-135M, random weights; 576 image tokens and 64 of text, batch 1. Prints the
median of the paired ratios Foveal / transformers (below 1 is better) of the vision encoder, of the whole prefill (with
the last token's logits alone, on both sides), of each decoded token, and of each side's peak memory, which is measured
in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from _sides import Loaded, Reference, alike, passes, settings, tell, turns

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


def transformers(folder: Path, dtype: torch.dtype) -> Reference:
    """The reference."""

    def see(model, given):
        return model.model.vision_tower(given["pixel_values"], output_hidden_states=True)

    return Reference("LlavaForConditionalGeneration", folder, dtype, see)


def foveal(folder: Path, dtype: torch.dtype) -> Loaded:
    """Our own."""
    return Loaded(folder, dtype, lambda wrapped, given: wrapped.model.vision(wrapped.batch(**given).visual))


SIDES = {"transformers": transformers, "foveal": foveal}


def peak(name: str, folder: Path, arguments: argparse.Namespace) -> float:
    """Peak resident megabytes of a process that loads the model and generates."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--new", str(arguments.new)]
    command += ["--threads", str(arguments.threads), "--dtype", arguments.dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = settings(__doc__, threads=1, rounds=5, new=32)
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
    given, new = inputs(dtype), arguments.new
    sides = {name: side(folder, dtype) for name, side in SIDES.items()}
    same = alike(sides, given, new)
    taken = turns(sides, partial(passes, given=given, new=new, parts=("vision", "prefill")), arguments.rounds)
    print(f"{arguments.dtype}, {arguments.threads} threads, {arguments.rounds} rounds; {same}")
    for part in taken[0]["foveal"]:
        tell(part, taken)
    ours, theirs = memory["foveal"], memory["transformers"]
    print(f"{'peak memory':15} {ours / theirs:.2f}x  (foveal {ours:.0f} MB, transformers {theirs:.0f} MB)")


if __name__ == "__main__":
    main()
