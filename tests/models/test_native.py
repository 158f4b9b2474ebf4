"""Images of any shape through a whole model: packed patches, places on axes, several depths of the encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import Patches
from foveal.decode.generate import generate
from foveal.models.budget import budgeted, endow, spent
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Video
from foveal.preprocess.words import word_tokenizer
from foveal.training.objectives.next_token import next_token

TEXTS = ["what is there ?", "a cat", "two dogs"]
VIT = {"name": "qwen_vit", "width": 16, "depth": 4, "heads": 2, "inner": 24, "patch": 4, "positions": 3}
AREA = Tiling(kind="area", tile=8, patch=4, pixels=(64, 640))


def parts(after=(0, 2), levels=(1, 3)):
    torch.manual_seed(0)
    tokenizer = word_tokenizer(TEXTS)
    rope = {"sections": [2, 1, 1], "interleaved": True}
    sizes = {"vocabulary": len(tokenizer), "width": 32, "depth": 4, "deviation": 0.4, "rope": rope}
    merger = {"name": "patch_merger"}
    model = assemble(
        ModelConfig.parse(
            {
                **{
                    "vision": {**VIT, "levels": list(levels)},
                    "connector": merger,
                    "levels": {**merger, "norm": "after"},
                },
                "fusion": {"name": "deepstack", "after": list(after)},
                "language": {"name": "decoder", **sizes},
            }
        )
    )
    look = ImageTransform(size=8, tiling=AREA)
    settings = ProcessorConfig(image=look, context=400, positions="frames")
    return model.eval(), Processor(tokenizer=tokenizer, config=settings)


def picture(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def film(count):
    return Video(frames=tuple(picture((17, 9), seed) for seed in range(count)), seconds=tuple(map(float, range(count))))


def told(question, answer, *pictures):
    shown = [{"type": "image"} for _ in pictures]
    asked = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return Example(id=answer, messages=(asked, said), images=pictures)


def test_every_depth_learns():
    model, processor = parts()
    shown = [
        told("what is there ?", "a cat", picture((20, 33))),
        told("what is there ?", "two dogs", picture((9, 9), 1)),
    ]
    batch = processor.training(shown, plan=model.plan)
    assert isinstance(batch.visual, Patches) and batch.positions.shape[2] == 3
    model(batch, keep="labelled").logits.logsumexp(-1).sum().backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []
    assert any(name.startswith("deeper.1.") for name, _ in model.named_parameters())


@pytest.mark.parametrize("levels", [((1, 3), (0, 2)), ((4, 2, 1), (3, 0, 1))])
def test_rows_answer_in_a_batch_as_alone_and_token_by_token_as_at_once(levels):
    model, processor = parts(after=levels[1], levels=levels[0])
    asked = [([picture((30, 12)), picture((8, 8), 1)], "what is there ?"), (None, "a cat"), ([film(3)], "two dogs")]
    batch = processor.prompt(asked, plan=model.plan)
    written = generate(model, batch, max_new_tokens=4)
    for row, one in enumerate(asked):
        own = processor.prompt([one], plan=model.plan)
        assert torch.equal(generate(model, own, max_new_tokens=4), written[row : row + 1])
        for step in range(4):
            with torch.no_grad():
                chosen = model(own).logits[:, -1].argmax(-1)
            assert chosen.item() == written[row, step].item()
            own = _longer(own, chosen[:, None])


def _longer(batch, token):
    def grown(name, value):
        part = getattr(batch, name)
        return torch.cat([part, value.to(part.dtype)], dim=1)

    here = torch.ones_like(token, dtype=torch.bool)
    return replace(
        batch,
        input_ids=grown("input_ids", token),
        valid=grown("valid", here),
        prompt=grown("prompt", ~here),
        image_slot=grown("image_slot", token * 0 - 1),
        positions=grown("positions", batch.positions[:, -1:] + 1),
    )


def test_what_does_not_fit_together_is_told():
    model, processor = parts()
    batch = processor.prompt([([picture((16, 16))], "a cat")], plan=model.plan)
    plain = {"vision": {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16}}
    sizes = {"vocabulary": 20, "width": 32, "depth": 1}
    other = assemble(ModelConfig.parse({**plain, "connector": "linear", "language": {"name": "decoder", **sizes}}))
    with pytest.raises(InputError, match="16 patches, and this encoder reads pictures; take 'qwen_vit'"):
        other(batch)
    with pytest.raises(InputError, match="positions on 3 axes for a language model of one"):
        other(replace(batch, visual=None))
    cut = ImageTransform(size=8, tiling=Tiling(kind="grid", tile=8, most=2))
    with pytest.raises(InputError, match="1 of 1 images are cut into tiles, and this encoder reads them whole"):
        model.plan([cut.planned(picture((16, 16)))])


@pytest.mark.parametrize("strategy", ["foveal", "average_pool", "divprune"])
def test_a_budget_leaves_tokens_and_words_where_all_tokens_had_them(strategy):
    """Laid out for the budget or for all tokens, alone or beside a larger picture, one that is within it or none."""
    model, processor = parts()
    rows = [
        told("what is there ?", "a cat", picture((40, 24))),
        told("what is there ?", "two dogs", picture((16, 16), 1), picture((24, 24), 2)),
        told("what is there ?", "a cat"),
    ]
    view = budgeted(model, 4, strategy)
    with torch.no_grad():
        batch = processor.prompt(rows, plan=view.plan)
        said = view(batch).logits
        for number, row in enumerate(rows):
            alone = processor.prompt([row], plan=view.plan)
            own = batch.valid[number]
            torch.testing.assert_close(view(alone).logits[0], said[number][own])
            short, anew = spent(model, processor.prompt([row], plan=model.plan), 4, strategy)
            torch.testing.assert_close(short(anew).logits[0], said[number][own])
    whole = processor.prompt(rows, plan=model.plan)
    words = [one.positions[(one.image_slot < 0) & one.valid] for one in (batch, whole)]
    assert torch.equal(*words)


def test_a_model_of_native_resolution_learns_under_a_budget_of_its_own():
    model, processor = parts()
    endow(model, {"name": "foveal", "budget": 4})
    rows = [told("what is there ?", "a cat", picture((40, 24))), told("what is there ?", "two dogs", picture((16, 16)))]
    batch = processor.training(rows, plan=model.plan)
    next_token(model.train(), batch)[0].backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.allocator.parameters())
    model.eval()
    prompt = processor.prompt([rows[0]], plan=model.plan)
    ids = generate(model, prompt, max_new_tokens=3)
    ends = prompt.positions[:, -1:] + 1 + torch.arange(2)[None, :, None]
    more = {"input_ids": ids[:, :2], "image_slot": torch.full((1, 2), -1), "positions": ends}
    more |= {"valid": torch.ones(1, 2, dtype=torch.bool), "prompt": torch.zeros(1, 2, dtype=torch.bool)}
    whole = replace(prompt, **{name: torch.cat([getattr(prompt, name), part], dim=1) for name, part in more.items()})
    with torch.no_grad():
        assert torch.equal(model(whole).logits[0, -3:].argmax(-1), ids[0])
