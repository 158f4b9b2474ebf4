"""Questions of one picture in one row: the same losses as each alone, whatever the layout of the row."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from foveal.core.example import Example
from foveal.core.labels import next_labels
from foveal.core.types import IGNORE
from foveal.decode.generate import generate
from foveal.models.budget import budgeted, spent
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from tests.models.test_causal import TINY

ASKED = [("what is it", "a cat"), ("is the cat here", "yes"), ("how many", "two of them"), ("where", "left")]


def example(picture, question, answer):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    told = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return Example(id=question, images=(picture,), messages=({"role": "user", "content": content}, told))


@pytest.fixture(params=[False, True], ids=["causal", "mutual"])
def setup(request):
    torch.manual_seed(0)
    model = assemble(ModelConfig.parse(TINY)).eval()
    config = ProcessorConfig(image=ImageTransform(size=16, mode="square"), context=64, mutual=request.param)
    processor = Processor(tokenizer=word_tokenizer([" ".join(pair) for pair in ASKED]), config=config)
    noise = torch.randint(0, 255, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pictures = [Image.fromarray(entry.numpy()) for entry in noise]
    return model, processor, [[example(picture, *pair) for pair in ASKED] for picture in pictures]


def losses(model, batch):
    with torch.no_grad():
        logits = model(batch).logits[:, :-1]
    labels = next_labels(batch)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return each[labels.flatten() != IGNORE].sort().values


@pytest.mark.parametrize("strategy", ["foveal", "cdpruner", "random"])
def test_packed_conversations_are_heard_each_by_its_own_images(setup, strategy):
    model, processor, groups = setup
    view = budgeted(model, 2, strategy=strategy)
    every = [group[number] for number, group in enumerate(groups)]
    seen = [view.see(processor.training([one], plan=view.plan)).features for one in every]
    packed = processor.training(every, plan=view.plan, length=64)
    assert packed.segment is not None and len(packed.input_ids) == 1
    torch.testing.assert_close(view.see(packed).features, torch.cat(seen))
    alone = processor.training(every, plan=view.plan)
    torch.testing.assert_close(losses(view, packed), losses(view, alone), atol=1e-5, rtol=1e-5)


def test_packed_conversations_count_their_own_images(setup):
    _, processor, groups = setup
    torch.manual_seed(0)
    connector = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "head_width": 4, "images": 2}
    model = assemble(ModelConfig.parse({**TINY, "connector": connector, "fusion": "prefix"})).eval()
    with torch.no_grad():
        model.connector.images.normal_()
    every = [group[number] for number, group in enumerate(groups)]
    rows, packed = (processor.training(every, plan=model.plan, length=length) for length in (None, 64))
    assert packed.segment is not None
    torch.testing.assert_close(model.see(packed).features, model.see(rows).features)


def test_a_group_learns_what_its_members_learn(setup):
    model, processor, groups = setup
    fan = processor.training(groups, plan=model.plan)
    assert fan.fan is not None
    alone = processor.training([one for group in groups for one in group], plan=model.plan)
    torch.testing.assert_close(losses(model, fan), losses(model, alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses(model, replace(fan, fan=None)), losses(model, alone), atol=1e-5, rtol=1e-5)
    packed = processor.training(groups, plan=model.plan, length=64)
    torch.testing.assert_close(losses(model, packed), losses(model, alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["foveal", "random"])
def test_rows_laid_out_anew_are_those_that_a_budget_was_planned_for(setup, strategy):
    model, processor, groups = setup
    view = budgeted(model, 2, strategy)
    for length in (None, 64):
        whole = processor.training(groups, plan=model.plan, length=length)
        planned = processor.training(groups, plan=view.plan, length=length)
        _, anew = spent(model, whole, 2, strategy)
        assert (anew.fan is None) == (planned.fan is None)
        assert (anew.image_slot >= 0).sum() == (planned.image_slot >= 0).sum() == 4
        torch.testing.assert_close(losses(model, anew), losses(view, planned), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(losses(model, replace(anew, fan=None)), losses(view, planned), atol=1e-5, rtol=1e-5)
    alone = [group[0] for group in groups] + [groups[0][2]]
    asked, planned = (processor.prompt(alone, plan=one.plan) for one in (model, view))
    new = generate(model, spent(model, asked, 2, strategy)[1], max_new_tokens=4)
    assert torch.equal(new, generate(view, planned, max_new_tokens=4))


def test_cached_steps_equal_one_pass(setup):
    model, processor, groups = setup
    batch = processor.prompt([group[0] for group in groups] + [groups[0][2]], plan=model.plan)
    new = generate(model, batch, max_new_tokens=4)
    for row, conversation in enumerate([groups[0][0], groups[1][0], groups[0][2]]):
        alone = processor.prompt([conversation], plan=model.plan)
        assert torch.equal(generate(model, alone, max_new_tokens=4)[0], new[row])
        so_far = alone
        for token in new[row]:
            with torch.no_grad():
                assert model(so_far, keep="last").logits[0, -1].argmax() == token
            so_far = longer(so_far, token)


def longer(batch, token):
    ids = torch.cat([batch.input_ids, token.view(1, 1)], dim=1)
    grown = {
        "input_ids": ids,
        "valid": torch.ones_like(ids, dtype=torch.bool),
        "prompt": torch.ones_like(ids, dtype=torch.bool),
    }
    grown["image_slot"] = torch.cat([batch.image_slot, torch.tensor([[-1]])], dim=1)
    if batch.order is not None:
        grown["order"] = torch.cat([batch.order, torch.tensor([[ids.shape[1] - 1]])], dim=1)
    return replace(batch, **grown)


def test_mutual_sight_is_what_differs(setup):
    model, processor, groups = setup
    batch = processor.prompt([groups[0][0]], plan=model.plan)
    assert (batch.order is not None) == processor.config.mutual
    if batch.order is not None:
        with torch.no_grad():
            assert not torch.equal(model(batch).logits, model(replace(batch, order=None)).logits)
