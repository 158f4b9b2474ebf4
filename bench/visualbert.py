"""VisualBERT on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/visualbert.py [--threads 1] [--rounds 5] [--dtype float32]

VisualBERT-base under its VQA head, random weights; 128 text tokens and 36 regions of 2,048 numbers, batch 1 and 8, rows
whole and padded. Prints the median of the paired ratios Foveal / transformers (below 1 is better), and how far the
scores lie apart.
"""

from pathlib import Path

import torch
from _sides import forwards

WORDS, REGIONS, WIDTH, ANSWERS = 128, 36, 2048, 3129


def checkpoint(folder: Path) -> None:
    """Write a VisualBERT-base with random weights."""
    from transformers import VisualBertConfig, VisualBertForQuestionAnswering

    torch.manual_seed(0)
    config = VisualBertConfig(visual_embedding_dim=WIDTH)
    config.num_labels = ANSWERS
    VisualBertForQuestionAnswering(config).save_pretrained(folder)


def inputs(rows: int, dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
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


if __name__ == "__main__":
    forwards(
        __doc__, "VisualBertForQuestionAnswering", checkpoint=checkpoint, inputs=inputs, field="logits",
        uneven="padded", rounds=5,
    )  # fmt: skip
