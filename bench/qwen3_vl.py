"""Qwen3-VL on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/qwen3_vl.py [--threads 1] [--rounds 3] [--new 8] [--dtype float32]

A tower of 12 layers of width 768 with three levels over an image of 768 x 768 pixels (2304 patches, 576 tokens after
merging) and the shape of SmolLM2-135M with DeepStack and M-RoPE, random weights, 64 tokens of text, batch 1. Prints the
cost of attention over one large and seven small images (all ours): packed, as one row under a mask over all pairs, and
filled up. Then the median of the paired ratios Foveal / transformers (below 1 is better) of the tower with its mergers,
of the whole forward pass with all logits, of the prefill (with the last token's alone, on both sides) and of each
decoded token.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from _sides import Loaded, Reference, alike, clock, passes, seconds, settings, tell, turns

GRID, PATCH, IMAGE_TOKENS, TEXT_TOKENS, IMAGE_ID = 48, 16, 576, 64, 49151


def checkpoint(folder: Path) -> None:
    """Write a Qwen3-VL with random weights."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        "depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12, "patch_size": PATCH,
        "out_hidden_size": 576, "num_position_embeddings": GRID**2, "deepstack_visual_indexes": [2, 5, 8],
    }  # fmt: skip
    text = {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [12, 10, 10]},
        "tie_word_embeddings": True,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen3VLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_ID, tie_word_embeddings=True)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)


def inputs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One image, then text."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10, 49000, (1, TEXT_TOKENS), generator=generator)
    ids = torch.cat([text[:, :8], torch.full((1, IMAGE_TOKENS), IMAGE_ID), text[:, 8:]], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_ID).int(),
        "pixel_values": torch.randn(GRID**2, 3 * 2 * PATCH**2, generator=generator).to(dtype),
        "image_grid_thw": torch.tensor([[1, GRID, GRID]]),
    }


def transformers(folder: Path, dtype: torch.dtype) -> Reference:
    """The reference."""

    def see(model, given):
        return model.model.visual(given["pixel_values"], grid_thw=given["image_grid_thw"])

    return Reference("Qwen3VLForConditionalGeneration", folder, dtype, see)


def foveal(folder: Path, dtype: torch.dtype) -> Loaded:
    """Our own."""
    return Loaded(folder, dtype, lambda wrapped, given: wrapped.model.see(wrapped.batch(**given)))


SIDES = {"transformers": transformers, "foveal": foveal}


def packing() -> None:
    """Attention of one large and seven small images side by side, three ways."""
    from foveal.layers.attention import attend, attend_apart

    lengths = (GRID**2, *[144] * 7)
    parts = [torch.randn(1, 12, sum(lengths), 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (number[:, None] == number)[None, None]
    filled = [torch.randn(len(lengths), 12, max(lengths), 64) for _ in range(3)]
    there = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None]
    ways = {
        "packed": lambda: attend_apart(*parts, lengths=lengths),
        "under a mask over all pairs": lambda: attend(*parts, mask=mask),
        "filled up to the largest": lambda: attend(*filled, mask=there.expand(-1, 1, max(lengths), -1)),
    }
    for way in ways.values():
        way()
    taken = {name: statistics.median(seconds(way) for _ in range(3)) for name, way in ways.items()}
    for name, value in taken.items():
        print(f"attention {name}: {1000 * value:.0f} ms, {value / taken['packed']:.1f}x")


def main() -> None:
    arguments = settings(__doc__, threads=1, rounds=3, new=8).parse_args()
    torch.set_num_threads(arguments.threads)
    start = clock()
    dtype, new = getattr(torch, arguments.dtype), arguments.new
    given, parts = inputs(dtype), ("vision", "forward", "prefill")
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        packing()
        checkpoint(Path(folder))
        sides = {name: side(Path(folder), dtype) for name, side in SIDES.items()}
        same = alike(sides, given, new)
        taken = turns(sides, partial(passes, given=given, new=new, parts=parts), arguments.rounds)
    print(f"{arguments.threads} threads, {arguments.dtype}, {arguments.rounds} rounds, {clock() - start:.0f} s")
    print(same)
    for part in taken[0]["foveal"]:
        tell(part, taken)


if __name__ == "__main__":
    main()
