"""A Q-Former on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating in one run.

    python bench/qformer.py [--threads 1] [--rounds 7] [--dtype float32]

That of BLIP-2: 12 layers of width 768, 32 queries over the 257 states of width 1,408 of an image; random weights, batch
1 and 8, images whole and masked. Prints the median of the paired ratios Foveal / transformers (below 1 is better), and
how far the states lie apart.
"""

from pathlib import Path

import torch
from _sides import forwards

QUERIES, STATES, WIDTH = 32, 257, 1408


def checkpoint(folder: Path) -> None:
    """Write a Q-Former of BLIP-2's size with random weights."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(0)
    Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=WIDTH)).save_pretrained(folder)


def inputs(rows: int, dtype: torch.dtype, masked: bool) -> dict[str, torch.Tensor]:
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


if __name__ == "__main__":
    forwards(
        __doc__, "Blip2QFormerModel", checkpoint=checkpoint, inputs=inputs, field="last_hidden_state", uneven="masked",
        rounds=7,
    )  # fmt: skip
