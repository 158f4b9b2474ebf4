"""Queries under a budget: the first of them look, most of them led by relevance, alone as in a batch."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Pixels
from foveal.decode.generate import generate
from foveal.models import causal
from foveal.models.budget import budgeted, lacking
from foveal.models.config import ModelConfig
from foveal.training.objectives.budgets import budgets
from tests.models.test_contract import open_gates

VIT = {"name": "vit", "image_size": 32, "patch": 8, "width": 16, "depth": 2, "heads": 2, "inner": 24, "layers": [-1]}
QFORMER = {"name": "qformer", "queries": 8, "width": 12, "depth": 2, "heads": 2, "inner": 16}
PERCEIVER = {"name": "perceiver", "latents": 8, "depth": 2, "heads": 2, "head_width": 6}
CONNECTORS = {
    "qformer": QFORMER,
    "hearing": {**QFORMER, "vocabulary": 44},
    "perceiver": PERCEIVER,
    "grouped": {**PERCEIVER, "kv_heads": 1, "frames": 2, "images": 2, "places": 2},
}
FUSIONS = {"prefix": "prefix", "flamingo": {"name": "gated_cross_attention", "heads": 2, "head_width": 8}}
EVERY = [(connector, fusion) for connector in CONNECTORS for fusion in FUSIONS]


def model_of(connector="qformer", fusion="prefix", **parts):
    torch.manual_seed(0)
    language = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 2, "heads": 2, "inner": 24}
    given = {"vision": VIT, "connector": CONNECTORS[connector], "fusion": FUSIONS[fusion], "language": language}
    model = causal.assemble(ModelConfig.parse({**given, **parts})).eval()
    open_gates(model)
    for weight in model.connector.parameters():  # louder than fresh ones, so that it matters where they look
        weight.data.add_(torch.randn_like(weight) * 0.3)
    return model


def batch(model, rows=2, answer=3, only=None, frames=None):
    mine = list(range(rows)) if only is None else [only]
    films = None if frames is None else tuple(frames[row] for row in mine)
    pictures = [row for row in mine for _ in range(1 if frames is None else frames[row])]
    layout = model.plan([(32, 32)] * len(pictures), films)
    slots = torch.full((len(mine), max(layout.places) + 6), -1)
    for number in range(len(mine)):
        begin = layout.offsets[number]
        slots[number, 1 : 1 + layout.places[number]] = torch.arange(begin, begin + layout.places[number])
    words = torch.stack([torch.randint(4, 40, (6,), generator=torch.Generator().manual_seed(row)) for row in mine])
    words = torch.cat([words[:, :1], torch.full((len(mine), slots.shape[1] - 6), 2), words[:, 1:]], dim=1)
    words[:, -1] = answer
    prompt = torch.ones_like(words, dtype=torch.bool)
    prompt[:, -2:] = False
    seen = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(9 + i)) for i in range(9)]
    values = torch.stack([seen[(2 * row + pictures[:i].count(row)) % 9] for i, row in enumerate(pictures)])
    return Batch(
        input_ids=words, valid=torch.ones_like(prompt), prompt=prompt, image_slot=slots, owner=torch.arange(len(mine)),
        visual=replace(Pixels.whole(values), frames=films),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("connector", "fusion"), EVERY)
def test_as_many_queries_as_planned_look_and_alone_as_in_a_batch(connector, fusion):
    view = budgeted(model_of(connector, fusion), 5)
    given = batch(view)
    out = view(given)
    assert view.plan([(32, 32)] * 2).counts == out.visual.layout.counts == (5, 5)
    assert (given.image_slot >= 0).sum(1).tolist() == ([1, 1] if fusion == "flamingo" else [5, 5])
    for row in range(2):
        alone = view(batch(view, only=row))
        torch.testing.assert_close(alone.logits[0], out.logits[row], atol=1e-5, rtol=1e-5)
    again = view(replace(given, prompt=torch.ones_like(given.prompt)), keep="last").logits[:, -1].argmax(-1)
    told = generate(view, replace(given, prompt=torch.ones_like(given.prompt)), max_new_tokens=2)
    assert torch.equal(told[:, 0], again)


@torch.no_grad()
@pytest.mark.parametrize(("connector", "fusion"), EVERY)
def test_all_of_them_are_the_model_itself(connector, fusion):
    model = model_of(connector, fusion)
    for budget in (8, 20):
        assert torch.equal(budgeted(model, budget)(batch(model)).logits, model(batch(model)).logits)


@torch.no_grad()
@pytest.mark.parametrize("connector", [name for name in CONNECTORS if name != "hearing"])
def test_relevance_leads_most_queries_by_the_question_and_no_answer_is_heard(connector):
    model = model_of(connector)
    view = budgeted(model, 4)
    given = batch(view)
    seen = view.see(given)
    other = view.see(batch(view, answer=9)).features
    assert torch.equal(seen.features, other)
    asked = replace(given, input_ids=given.input_ids.roll(1, 0))
    assert not torch.allclose(view.see(asked).features, seen.features, atol=1e-4)
    blind = [budgeted(model, 4, explore=1.0).see(one).features for one in (given, asked)]
    assert torch.equal(*blind)
    free = budgeted(model, 4, lead=0.0).see(given)
    assert not torch.allclose(free.features, seen.features, atol=1e-4)
    one = seen.looked[0]
    assert one.maps.shape == (3, 4, 4) and one.shares.sum().item() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("connector", CONNECTORS)
def test_queries_are_led_by_what_the_encoder_attends_to_where_that_is_wished(connector):
    model = model_of(connector)
    view = budgeted(model, 4, salience="attention")
    given = batch(view)
    together, contrast = view.see(given), budgeted(model, 4).see(given)
    assert not torch.allclose(together.features, contrast.features, atol=1e-4)
    alone = view.see(batch(view, only=1))
    torch.testing.assert_close(alone.features, together.features[4:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_log_of_relevance_leads_and_more_queries_lead_the_same_ones():
    model = model_of("perceiver")
    view = budgeted(model, 4)
    given = batch(view)
    seen = view.vision(given.visual)
    gaze = view.allocator.gaze(seen, view.connector.said(seen), view.query(given), 4)
    assert gaze.led == (True, True, True, False)
    shares = torch.stack([one.shares.flatten() for one in gaze.looked])
    torch.testing.assert_close(gaze.bias, (shares * 16).log().flatten())
    assert budgeted(model, 7).allocator.gaze(seen, view.connector.said(seen), view.query(given), 7).led[:4] == gaze.led


def test_every_weight_of_the_balancer_and_the_connector_learns():
    for connector in CONNECTORS:
        model = model_of(connector, allocator={"name": "foveal", "budget": 5, "explore": 0.2}).train()
        given = batch(model)
        labels = torch.where(given.prompt, IGNORE, given.input_ids)
        out = model(replace(given, labels=labels), keep="labelled")
        torch.nn.functional.cross_entropy(out.logits, out.labels).backward()
        assert model.allocator.balancer.weigh.weight.grad.abs().sum() > 0
        own = model.connector.resampler.latents if connector in ("perceiver", "grouped") else model.connector.queries
        assert (own.grad[:5].abs().sum(1) > 0).all() and not own.grad[5:].any()


@torch.no_grad()
@pytest.mark.parametrize(("connector", "fusion"), EVERY)
def test_a_batch_laid_out_for_all_is_laid_out_anew(connector, fusion):
    model = model_of(connector, fusion)
    view = budgeted(model, 5)
    anew = view.spent(batch(model))
    straight = batch(view)
    assert torch.equal(anew.image_slot, straight.image_slot) and torch.equal(anew.input_ids, straight.input_ids)
    torch.testing.assert_close(view(anew).logits, view(straight).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_videos_are_led_frame_by_frame(fusion):
    model = model_of("grouped", fusion)
    view = budgeted(model, 5)
    both = batch(view, frames=(2, 3))
    out = view(both)
    assert out.visual.layout.counts == (5, 5)
    for row in range(2):
        alone = view(batch(view, only=row, frames=(2, 3)))
        torch.testing.assert_close(alone.logits[0], out.logits[row], atol=1e-5, rtol=1e-5)


def test_drawn_budgets_train_it():
    model = model_of("hearing", "flamingo", allocator={"name": "foveal", "budget": 8, "explore": 0.0}).train()
    given = batch(model)
    given = replace(given, labels=torch.where(given.prompt, IGNORE, given.input_ids))
    loss, _, parts = budgets(model, given, least=3, most=3, whole=0.0, teacher=0.5)
    loss.backward()
    assert parts["teacher"][0] > 0 and model.allocator.balancer.weigh.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_half_precision_is_led_too():
    for connector in CONNECTORS:
        view = budgeted(model_of(connector).to(torch.bfloat16), 5)
        given = batch(view)
        given = replace(given, visual=replace(given.visual, values=given.visual.values.bfloat16()))
        assert torch.isfinite(view(given).logits).all()


def test_what_cuts_grids_is_refused_in_a_line():
    model = model_of()
    assert lacking(model, 5, "random").startswith("strategy 'random' cuts a grid, and what the 8 queries of connector")
    assert lacking(model, 8, "random") is lacking(model, 5, "foveal") is lacking(model, 5, "all") is None
    with pytest.raises(InputError, match="lies on none; take foveal"):
        budgeted(model, 5, "grid")
    with pytest.raises(InputError, match="a lead of 2"):
        budgeted(model, 5, lead=2.0)
