"""Flamingo's blocks on the CPU: Foveal against transformers, same weights and threads, sides alternating in one run.

    python bench/flamingo.py [--threads 1] [--rounds 5] [--images 4] [--train]

A gated cross-attention block of IDEFICS at width 2048: 512 words over 64 latents of each image. Prints the median of
the paired ratios Foveal / transformers (below 1 is better) of the prompt, of one more token, of both in an answer of 32
tokens, and with `--train` of a step forward and backward. Then the cost of a language model of SmolLM2-135M's width as
the tokens of its image grow: as a prefix, and seen through gated blocks before every fourth layer, where an image is
one token.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

WIDTH, INNER, HEADS, SIGHT, LATENTS, WORDS = 2048, 5504, 16, 1280, 64, 512
Call = Callable[[], Any]


def block() -> Any:
    """A block of transformers with open gates."""
    from transformers import IdeficsConfig
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    config = IdeficsConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_attention_heads=HEADS, alpha_initializer="ones",
        vision_config={"embed_dim": SIGHT},
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return IdeficsGatedCrossAttentionLayer(config).eval()


def fusion_of(theirs: Any) -> Any:
    """Ours with its weights."""
    from foveal.fusion.gated_cross_attention import GatedCrossAttention
    from foveal.weights.idefics import block_rules
    from foveal.weights.names import Renaming, load_strict

    ours = GatedCrossAttention(
        width=WIDTH, depth=1, width_of_sight=SIGHT, heads=HEADS, head_width=WIDTH // HEADS, inner=INNER,
        feed_gated=True, activation="silu", norm="rms", eps=1e-6, looks="all",
    )  # fmt: skip
    renaming = Renaming(block_rules(ours="blocks.0.", theirs=""))
    load_strict(ours, theirs.state_dict(), "the reference", renaming=renaming)
    return ours.eval()


def scene(images: int) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A text with its images in equal distances: our stream and visual tokens, and the reference's arguments."""
    from foveal.core.types import Layout, Stream, VisualTokens

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, WORDS, WIDTH, generator=generator)
    memory = torch.randn(images * LATENTS, SIGHT, generator=generator)
    slots = torch.full((1, WORDS), -1)
    slots[0, :: WORDS // images] = torch.arange(images) * LATENTS
    visual = VisualTokens.on_layout(memory, Layout(counts=(LATENTS,) * images, grids=(None,) * images))
    stream = Stream(hidden=hidden, positions=torch.arange(WORDS)[None], slots=slots)
    seen = (slots >= 0).cumsum(1)[..., None] > torch.arange(images)
    mask = torch.where(seen.repeat_interleave(LATENTS, -1)[:, None], 0.0, torch.finfo(torch.float32).min)
    given = {
        "image_hidden_states": memory[None],
        "image_attention_mask": mask,
        "cross_attention_gate": torch.ones(1, WORDS),
    }
    return stream, visual, {"hidden_states": hidden, **given}


def paired(ours: Call, theirs: Call, rounds: int) -> float:
    """The median of the ratios of their times, taken in turn."""
    for call in (ours, theirs):
        call()
    return statistics.median(timed(ours) / timed(theirs) for _ in range(rounds))


def timed(call: Call) -> float:
    """Seconds of the processor."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def blocks(rounds: int, images: int, *, train: bool) -> None:
    """Print the ratios of a block, after a check that both sides say the same."""
    from foveal.layers.cache import KVCache

    theirs = block()
    ours, (stream, visual, given) = fusion_of(theirs), scene(images)
    with torch.no_grad():
        laid = ours.at_input(stream, visual)
        difference = (ours.at_layer(0, laid).hidden - theirs(**given)).abs().max().item()
        cache = KVCache(layers=1, batch=1, kv_heads=1, length=1, head_width=2)
        ours.at_layer(0, replace(laid, cache=cache))
        none = torch.full((1, 1), -1)
        later = replace(stream, hidden=stream.hidden[:, -1:], slots=none, positions=none, cache=cache)
        last = {"hidden_states": given["hidden_states"][:, -1:], "cross_attention_gate": torch.ones(1, 1)}
        last = {**given, **last, "image_attention_mask": given["image_attention_mask"][:, :, -1:]}

        def mine(words: int) -> None:
            for _ in range(words):
                ours.at_layer(0, later)

        def yours(words: int) -> None:
            for _ in range(words):
                theirs(**last)

        whole = paired(lambda: ours.at_layer(0, ours.at_input(stream, visual)), lambda: theirs(**given), rounds)
        token = paired(lambda: mine(4), lambda: yours(4), rounds)
        answer = paired(
            lambda: (ours.at_layer(0, ours.at_input(stream, visual)), mine(31)),
            lambda: (theirs(**given), yours(31)),
            rounds,
        )
    print(f"largest difference {difference:.1e}")
    print(f"block over {WORDS} words and {images} images of {LATENTS} tokens: {whole:.2f} of transformers' time")
    print(f"one more token, for which transformers reads the images anew: {token:.2f}; an answer of 32: {answer:.2f}")
    if train:
        both = paired(
            lambda: ours.at_layer(0, ours.at_input(stream, visual)).hidden.sum().backward(),
            lambda: theirs(**given).sum().backward(),
            rounds,
        )
        print(f"forward and backward: {both:.2f} of transformers' time")


def curve(rounds: int) -> None:
    """Print what a prompt costs as its image grows, as a prefix and through blocks."""
    from foveal.core.types import Batch, Layout, VisualTokens
    from foveal.models.causal import assemble
    from foveal.models.config import ModelConfig

    sizes = {"vocabulary": 1000, "width": 576, "depth": 8, "heads": 9, "kv_heads": 3, "inner": 1536, "context": 8192}
    shared = {"features": 576, "connector": "identity", "language": {"name": "decoder", **sizes}}
    gated = {"name": "gated_cross_attention", "every": 4, "heads": 9, "start": 0.5}
    models = {name: assemble(ModelConfig.parse({**shared, "fusion": fusion})).eval()
              for name, fusion in (("prefix", "prefix"), ("gated", gated))}  # fmt: skip

    def asked(name: str, count: int) -> Call:
        layout = Layout(counts=(count,), grids=(None,))
        taken = count if name == "prefix" else 1
        slots = torch.cat([torch.arange(taken), torch.full((64,), -1)])[None]
        ids, valid = torch.ones_like(slots), torch.ones_like(slots, dtype=torch.bool)
        visual = VisualTokens.on_layout(torch.randn(count, 576), layout)
        batch = Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=visual, full=True)
        return lambda: models[name](batch, keep="last")

    print("image tokens   prefix ms   gated ms   of these, language layers")
    with torch.no_grad():
        for count in (64, 256, 1024, 4096):
            calls = {name: asked(name, count) for name in models}
            layers = asked("gated", 1)
            measured = [
                statistics.median(timed(call) for _ in range(rounds)) * 1000 for call in (*calls.values(), layers)
            ]
            print("{:12}   {:9.0f}   {:8.0f}   {:8.0f}".format(count, *measured))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--train", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    blocks(given.rounds, given.images, train=given.train)
    curve(given.rounds)


if __name__ == "__main__":
    main()
