"""Words that look at the cells that show them."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.lookup import spec
from foveal.core.types import Batch
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.training.config import Stage
from foveal.training.objectives.joint import joint
from foveal.training.objectives.match import match, visible

WEIGHTS = {"answers": 1.0, "cells": 0.5, "match": 0.25}


@pytest.fixture
def batch(world):
    model = world.model()
    given = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:8]])
    return model, asked(given)


def asked(batch):
    """The batch of this small world names things in answers alone: here these are read as questions."""
    return replace(batch, labels=None)


def test_steps_on_it_move_attention_to_the_right_cells(batch):
    model, given = batch
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first, words = match(model, given)
    assert words > 0
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = match(model, given)
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * first


def test_a_word_that_no_cell_shows_and_an_answer_count_nothing(batch):
    model, given = batch
    elsewhere = {"cells": torch.zeros_like(given.targets["cells"])}
    assert match(model, replace(given, targets=elsewhere))[1] == 0
    answers = replace(given, labels=given.input_ids)
    assert match(model, given)[1] > match(model, answers)[1] == 0


def test_an_answer_looks_at_the_word_it_is_about(batch):
    model, given = batch
    end = int(given.valid.sum(1).min()) - 1
    words = given.valid & (given.image_slot < 0)
    shown = words & (given.input_ids[..., None] == given.targets["cells"].view(len(words), 1, -1)).any(-1)
    labels = torch.full_like(given.input_ids, -100)
    labels[:, end] = given.input_ids[:, end]
    counted = match(model, replace(given, labels=labels))[1]
    asked_about = shown[:, :end].any(1)
    assert asked_about.any()
    assert counted == int(shown.sum() - shown[:, end].sum() + asked_about.sum())


def test_a_token_sees_the_trunk_its_branch_and_itself():
    ids = torch.arange(1, 7)[None]
    branch = torch.tensor([[0, 0, 1, 1, 2, 2]])
    valid = torch.tensor([[True, True, True, True, True, False]])
    one = Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), branch=branch)
    seen = visible(one, torch.tensor([0, 0]), torch.tensor([3, 4]))
    assert seen.int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0]]


def test_rows_apart_lose_what_they_lose_together(world):
    model = world.model()
    collate = world.collate(model, cells=True)(Stage(steps=1))
    together = match(model, asked(collate([[example] for example in world.data[:4]])))
    apart = [match(model, asked(collate([[example]]))) for example in world.data[:4]]
    assert together[1] == sum(count for _, count in apart)
    assert together[0].item() == pytest.approx(sum(loss.item() for loss, _ in apart), rel=1e-4)


def test_joint_adds_it_by_its_weight(world):
    model = world.model()
    given = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:8]])
    half = given.labels.clone()
    half[:4] = -100  # rows without an answer are questions from end to end
    given = replace(given, labels=half)
    loss, count, parts = joint(model, given, cells=0.5, match=0.25)
    assert loss.item() == pytest.approx(sum(w * parts[n][0].item() for n, w in WEIGHTS.items()), rel=1e-5)
    assert parts["match"][1] > 0
    assert count == sum(w * parts[n][1] for n, w in WEIGHTS.items())


FORMS = {
    "plain": {},
    "after": {"norm_after": True, "qk_norm": True},
    "still": {"rope": {"still": [0]}},
    "near": {"window": 9},
    "gpt": {"name": "gpt", "rope": {"share": 0.5}, "parallel": True},
    "falling": {"name": "gpt", "steepest": 8.0},
    "opt": {"name": "opt", "norm_first": False},
}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_the_attention_of_the_layer_takes(world, form):
    settings = {"name": "decoder", "vocabulary": len(world.processor.tokenizer), "width": 16, "depth": 2, "heads": 2}
    config = {**world.model().config.dump(), "language": {**settings, "deviation": 0.5, **FORMS[form]}}
    model = assemble(ModelConfig.parse(config))
    for norm in (part for name, part in model.named_modules() if name.endswith("norm") and hasattr(part, "weight")):
        torch.nn.init.normal_(norm.weight)
    given = asked(world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:8]]))
    kept, attention = [], model.language.layers[0].attention
    attention.register_forward_pre_hook(
        lambda part, read, how: kept.append(part.weights(*read, mask=how["mask"], rotary=how["rotary"])),
        with_kwargs=True,
    )
    loss, count = match(model, given, head=1)
    told = given.targets["cells"][given.image_slot.clamp(min=0)].masked_fill(given.image_slot < 0, -1)
    falls = (kept[0][:, 1] * (told[:, None] == given.input_ids[..., None])).sum(-1)
    falls = falls[given.valid & (given.image_slot < 0) & (falls > 0)]
    assert count == len(falls) > 0
    torch.testing.assert_close(loss, -falls.log().sum(), atol=1e-4, rtol=1e-5)


def test_tokens_that_have_left_are_told(world):
    thin = {"name": "dense_sparse", "keep": [1, 0.25], "layers": [1], "by": "norm"}
    model = assemble(replace(world.model(depth=3).config, fusion=spec("fusion", thin)))
    given = world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[:2]])
    match(model, given)
    with pytest.raises(InputError, match=r"tokens have left before layer 2.*; give match an earlier layer"):
        match(model, given, layer=1)


def test_no_cells_and_no_such_head_say_so(batch):
    model, given = batch
    with pytest.raises(InputError, match="names no cells"):
        match(model, replace(given, targets={}))
    with pytest.raises(InputError, match="no head 9 in layer 0"):
        match(model, given, head=9)
