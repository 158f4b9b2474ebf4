"""Language model on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating.

    python bench/decoder.py [--threads 1] [--rounds 7] [--prompt 640] [--new 32] [--dtype float32] [--batch 1]

The shape is SmolLM2-135M's with random weights. Prints the median of the paired ratios Foveal / transformers (below 1
is faster): prefill is one pass over the prompt with the last token's logits, decode is one token after it. `packed`
is the same model with its linear layers handed to oneDNN (`foveal.inference.onednn`).
"""

import argparse
import statistics
import time

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from foveal.core.types import Batch
from foveal.models.causal import empty
from foveal.models.config import ModelConfig
from foveal.weights import decoder
from foveal.weights.huggingface import text_batch
from foveal.weights.names import load_strict

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}


def clock():
    """Seconds of this process, which other processes do not disturb; of the wall where threads share the work."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Reference:
    """transformers with its default attention (SDPA) and cache."""

    def __init__(self, model):
        self.model = model

    def prefill(self, ids):
        self.cache = DynamicCache(config=self.model.config)
        return self.model(input_ids=ids, past_key_values=self.cache, logits_to_keep=1).logits[:, -1]

    def step(self, token):
        return self.model(input_ids=token, past_key_values=self.cache, logits_to_keep=1).logits[:, -1]


class Foveal:
    """Our assembly and static cache."""

    def __init__(self, model, new):
        self.model, self.new = model, new

    def prefill(self, ids):
        self.cache = self.model.language.cache(ids.shape[0], ids.shape[1] + self.new)
        return self.logits(text_batch(ids))

    def step(self, token):
        return self.logits(text_batch(token))

    def logits(self, batch: Batch):
        return self.model(batch, cache=self.cache, keep="last").logits[:, -1]


def run(side, ids, new):
    """Seconds of the prefill and of each of the `new` greedy steps, and the tokens."""
    start = clock()
    tokens = [side.prefill(ids).argmax(-1, keepdim=True)]
    prefill = clock() - start
    start = clock()
    for _ in range(new - 1):
        tokens.append(side.step(tokens[-1]).argmax(-1, keepdim=True))
    return prefill, (clock() - start) / (new - 1), torch.cat(tokens, 1)


def sides(dtype, new):
    """Both models with the same weights, and the packed one where it applies."""
    torch.manual_seed(0)
    reference = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(dtype).eval()
    described = {"model_type": "llama", **SHAPE}
    settings = {"language": decoder.language_settings(described), "head": {"name": "language_model", "tied": True}}

    def ours():
        model = empty(ModelConfig.parse(settings))
        load_strict(model, reference.state_dict(), "bench", renaming=decoder.renaming(described))
        return model.eval()

    return {"transformers": Reference(reference), "foveal": Foveal(ours(), new)}


def main():
    """Alternate the sides and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("rounds", 7), ("prompt", 640), ("new", 32), ("batch", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = sides(getattr(torch, options.dtype), options.new)
    ids = torch.randint(0, SHAPE["vocab_size"], (options.batch, options.prompt))
    times = {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(options.rounds + 1):
            answers = {}
            for name, side in models.items():
                prefill, decode, answers[name] = run(side, ids, options.new)
                times[name] += [(prefill, decode)] if repeat else []  # the first round warms up
            for name, tokens in answers.items():
                agreement = (tokens == answers["transformers"]).float().mean().item()
                assert options.dtype != "float32" or agreement == 1, f"{name} wrote other tokens"
    print(
        f"threads {options.threads}, {options.dtype}, batch {options.batch}, prompt {options.prompt}, {options.new} new"
    )
    for name, seconds in times.items():
        for which, part in enumerate(("prefill", "decode")):
            ratio = statistics.median(
                mine[which] / theirs[which] for mine, theirs in zip(seconds, times["transformers"], strict=True)
            )
            middle = statistics.median(pair[which] for pair in seconds) * 1000
            print(f"{name:13} {part:8} {middle:9.1f} ms   {ratio:5.2f}x of transformers")


if __name__ == "__main__":
    main()
