"""Detection as language on the CPU: tokens written over what a cache keeps, against reading all again for each.

    python bench/pix2seq.py [--threads 1] [--rounds 2] [--objects 100] [--width 256] [--depth 4] [--seen 256]

The decoder has random weights and looks at `seen` visual tokens of an image, five tokens an object, legal tokens alone.
Both sides must write the same tokens. Prints the fastest time of each and their ratio.
"""

import argparse
import time
from dataclasses import replace

import torch

from foveal.core.types import Batch, Layout, VisualTokens
from foveal.decode.constrained import write
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.sequence import OBJECT, SequenceCodec, legal


def model_of(codec, options):
    """A decoder alone, which reads features made elsewhere."""
    torch.manual_seed(0)
    language = {"vocabulary": codec.vocabulary, "width": options.width, "depth": options.depth, "heads": 8}
    language |= {"name": "sequence_decoder", "context": codec.max_objects * OBJECT + 1}
    parts = {"assembly": "seq2seq", "features": options.width, "fusion": "memory", "language": language}
    return assemble(ModelConfig.parse({**parts, "head": {"name": "language_model", "tied": True}})).eval()


def batch_of(ids, features):
    """These tokens over the images' features."""
    rows, seen, _ = features.shape
    visual = VisualTokens.on_layout(features.flatten(0, 1), Layout(counts=(seen,) * rows, grids=(None,) * rows))
    whole = torch.ones_like(ids, dtype=torch.bool)
    return Batch(
        input_ids=ids, valid=whole, prompt=whole, image_slot=torch.full_like(ids, -1), visual=visual,
        owner=torch.arange(rows), full=True,
    )  # fmt: skip


def again(model, batch, table, steps):
    """The same tokens without a cache: every step reads the image and all tokens so far."""
    ids = batch.input_ids
    for step in range(steps):
        whole = torch.ones_like(ids, dtype=torch.bool)
        given = replace(batch, input_ids=ids, valid=whole, prompt=whole, image_slot=torch.full_like(ids, -1))
        logits = model(given, keep="last").logits[:, -1].masked_fill(~table[step % OBJECT], -torch.inf)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[:, 1:]


def main():
    """Take turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"threads": 1, "rounds": 2, "objects": 100, "width": 256, "depth": 4, "seen": 256, "batch": 1}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codec = SequenceCodec(max_objects=options.objects)
    model, table, steps = model_of(codec, options), legal(codec), options.objects * OBJECT
    ids = torch.full((options.batch, 1), codec.start)
    batch = batch_of(ids, torch.randn(options.batch, options.seen, options.width))
    sides = {
        "cached": lambda: write(model, batch, legal=table, steps=steps, best=codec.class_place).tokens,
        "uncached": lambda: again(model, batch, table, steps),
    }
    seconds, tokens = {name: [] for name in sides}, {}
    with torch.inference_mode():
        for _ in range(options.rounds):
            for name, side in sides.items():
                start = time.perf_counter()
                tokens[name] = side()
                seconds[name].append(time.perf_counter() - start)
    assert torch.equal(tokens["cached"], tokens["uncached"]), "the sides wrote different tokens"
    cached, uncached = (min(seconds[name]) for name in ("cached", "uncached"))
    print(f"{steps} tokens: cached {cached:.2f} s, uncached {uncached:.2f} s, ratio {uncached / cached:.1f}x")


if __name__ == "__main__":
    main()
