"""Language model on the CPU: Foveal against transformers, same weights, dtype and threads, sides alternating.

    python bench/decoder.py [--threads 1] [--rounds 7] [--prompt 640] [--new 32] [--dtype float32] [--batch 1]

The shape is SmolLM2-135M with random weights. Prefill is one pass over the prompt with the last token's logits, decode
is one token after it; `packed` is the same model after `foveal.layers.packed.pack`. Prints the median time of each, the
median of the paired ratios to transformers (below 1 is faster), and the ratio of the fastest of each, which other work
on the machine disturbs less.
"""

import statistics

import torch
from _sides import clock, settings
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from foveal.core.types import Batch
from foveal.layers.packed import pack
from foveal.models.assembly import empty
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


def measure(models, ids, new):
    """Seconds of the prefill and of each greedy step after it, side by side: step after step they take turns."""
    tokens, prefill, steps = {}, {}, {name: [] for name in models}
    for name, side in models.items():
        start = clock()
        tokens[name] = [side.prefill(ids).argmax(-1, keepdim=True)]
        prefill[name] = clock() - start
    for _ in range(new - 1):
        for name, side in models.items():
            start = clock()
            tokens[name].append(side.step(tokens[name][-1]).argmax(-1, keepdim=True))
            steps[name].append(clock() - start)
    return prefill, steps, {name: torch.cat(given, 1) for name, given in tokens.items()}


def sides(dtype, new):
    """The models, with the same weights."""
    torch.manual_seed(0)
    reference = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(dtype).eval()
    described = {"model_type": "llama", **SHAPE}
    settings = {"language": decoder.language_settings(described), "head": {"name": "language_model", "tied": True}}

    foveal, packed = empty(ModelConfig.parse(settings)).eval(), empty(ModelConfig.parse(settings)).eval()
    for model in (foveal, packed):
        load_strict(model, reference.state_dict(), "bench", renaming=decoder.renaming(described))
    return {"transformers": Reference(reference), "foveal": Foveal(foveal, new), "packed": Foveal(pack(packed), new)}


def main():
    """Alternate the sides and print the ratios."""
    options = settings(__doc__, threads=1, rounds=7, prompt=640, new=32, batch=1).parse_args()
    torch.set_num_threads(options.threads)
    models = sides(getattr(torch, options.dtype), options.new)
    ids = torch.randint(0, SHAPE["vocab_size"], (options.batch, options.prompt))
    prefills, steps = {name: [] for name in models}, {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(options.rounds + 1):
            prefill, step, tokens = measure(models, ids, options.new)
            same = all(torch.equal(tokens[name], tokens["transformers"]) for name in models)
            assert same or options.dtype != "float32", "the sides wrote different tokens"
            for name in models if repeat else ():  # the first round warms up
                prefills[name].append(prefill[name])
                steps[name] += step[name]
    print(f"threads {options.threads}, {options.dtype}, batch {options.batch}, {options.prompt} + {options.new} tokens")
    for part, seconds in (("prefill", prefills), ("decode", steps)):
        for name, mine in seconds.items():
            ratio = statistics.median(one / other for one, other in zip(mine, seconds["transformers"], strict=True))
            fastest = min(mine) / min(seconds["transformers"])
            print(
                f"{part:8} {name:13} {statistics.median(mine) * 1000:9.1f} ms {ratio:7.2f}x   fastest {fastest:5.2f}x"
            )


if __name__ == "__main__":
    main()
