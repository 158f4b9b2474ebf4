"""`foveal.compress` on the CPU: one transformers model under budgets, sides alternating in one run.

    python bench/compress.py [--rounds 3] [--budgets 288,128,64] [--strategy foveal] [--size small]

CLIP-B/16 at 384 px and the shape of SmolLM2-135M, random weights; 576 image tokens and 64 of text, batch 1 (`--size
tiny`: 4 layers of each). Prints, for each budget, how many tokens the language model reads, how many keys the cache
holds, and the median of the paired ratios compressed / as it was (below 1 is better) of the language model's prefill
and of the whole first token (vision and the cut in it).
"""

import argparse
import statistics
import time

import torch

import foveal

IMAGE_TOKENS, TEXT_TOKENS, IMAGE_ID = 576, 64, 49151


def made(size: str):
    """A LLaVA with random weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    depth = {"small": (12, 30), "tiny": (4, 4)}[size]
    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=depth[0], num_attention_heads=12, image_size=384,
        patch_size=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=depth[1], num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_ID, tie_word_embeddings=True)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def inputs() -> dict[str, torch.Tensor]:
    """One image, then text."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10, 49000, (1, TEXT_TOKENS), generator=generator)
    ids = torch.cat([text[:, :8], torch.full((1, IMAGE_TOKENS), IMAGE_ID), text[:, 8:]], dim=1)
    pixels = torch.randn(1, 3, 384, 384, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class Clock:
    """Seconds of this process (other processes do not disturb it) that the language model took in its first call."""

    def __init__(self, model) -> None:
        self.begin, self.taken = 0.0, []
        layers = model.model.language_model.layers
        layers[0].register_forward_pre_hook(self._start)
        layers[-1].register_forward_hook(self._stop)

    def _start(self, *_) -> None:
        self.begin = time.process_time()

    def _stop(self, *_) -> None:
        self.taken.append(time.process_time() - self.begin)


def once(model, clock: Clock, given: dict[str, torch.Tensor]) -> tuple[dict[str, float], int]:
    """Seconds of the prefill and of the first token; and the keys that the cache holds of the prompt."""
    clock.taken.clear()
    begin = time.process_time()
    made = model(**given, logits_to_keep=1, use_cache=True)
    first = time.process_time() - begin
    return {"prefill": clock.taken[0], "first token": first}, made.past_key_values.get_seq_length()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budgets", default="288,128,64")
    parser.add_argument("--strategy", default="foveal")
    parser.add_argument("--size", choices=("small", "tiny"), default="small")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, given = made(arguments.size), inputs()
    clock = Clock(model)
    budgets = [int(budget) for budget in arguments.budgets.split(",")]
    ratios: dict[int, list[dict[str, float]]] = {budget: [] for budget in budgets}
    keys = {}
    with torch.no_grad():
        for warm in range(arguments.rounds + 1):
            for budget in budgets:
                plain, _ = once(model, clock, given)
                foveal.compress(model, budget=budget, strategy=arguments.strategy)
                cut, keys[budget] = once(model, clock, given)
                model.foveal.restore()
                if warm:
                    ratios[budget].append({name: cut[name] / plain[name] for name in plain})
    print(f"{arguments.strategy}, {arguments.rounds} rounds; as it was: {IMAGE_TOKENS + TEXT_TOKENS} tokens")
    for budget in budgets:
        told = ", ".join(
            f"{name} {statistics.median(each[name] for each in ratios[budget]):.2f}" for name in ratios[budget][0]
        )
        print(f"budget {budget}: {keys[budget]} tokens read and keys held; {told}")


if __name__ == "__main__":
    main()
