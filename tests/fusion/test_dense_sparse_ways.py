"""How tokens that leave learn and are chosen: what answers may not say, packed rows, gradients, schedules, refusals."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Fan, Layout
from foveal.fusion.dense_sparse import kept, scheduled, stages_of
from foveal.models import masked
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.models.parts import flow
from foveal.relevance.strategies.foveal import Foveal
from foveal.training.parts import recomputed
from tests.fusion.thinned import (
    DEPTH,
    IMAGES,
    ROWS,
    SEEN,
    SELECTORS,
    alive_of,
    batch_of,
    images,
    in_place,
    model_of,
    same,
)  # fmt: skip


@torch.no_grad()
def left(model, batch):
    """The places of each row's visual tokens that reach the last layer."""
    visual = model.see(batch)
    stream, _ = flow(
        model.fusion.at_input(model.language.open(batch), visual), language=model.language, fusion=model.fusion
    )
    seen = (stream.slots >= 0) & stream.valid
    return [stream.places[row][seen[row]].tolist() for row in range(len(seen))]


@pytest.mark.parametrize("by", SELECTORS)
def test_an_answer_steers_nothing(by):
    model, rows = model_of(by=by), [[7, -1, 5, 4, 3, 2, 6], [-2, 8, 9, 3, 3]]
    batch = batch_of(rows, images(12, 9), answers=2)
    other = replace(batch, input_ids=torch.where(batch.prompt, batch.input_ids, batch.input_ids % 38 + 1))
    assert not torch.equal(batch.input_ids, other.input_ids) and left(model, batch) == left(model, other)


def test_a_question_steers_where_attention_is_asked_and_by_relevance():
    batch = batch_of([[7, -1, 5, 4]], images(24))
    asked = replace(batch, input_ids=torch.where(batch.image_slot < 0, batch.input_ids.flip(1) % 38 + 1, 39))
    asked = replace(asked, input_ids=torch.cat([batch.input_ids[:, :-1], asked.input_ids[:, -1:] + 9], dim=1))
    assert left(model_of(by="attention"), batch) != left(model_of(by="attention"), asked)
    assert left(model_of(by="norm"), batch) == left(model_of(by="norm"), asked)
    worth = torch.zeros(24)
    worth[[3, 5, 8, 13, 20, 21]] = torch.arange(1.0, 7.0)
    model = model_of(by="relevance")
    told = replace(batch, visual=replace(batch.visual, relevance=worth))
    assert left(model, told) == [[4, 6, 9, 14, 21, 22]]
    own = replace(batch, visual=replace(batch.visual, relevance=None))
    words = own.image_slot < 0
    others = [replace(own, input_ids=torch.where(words, word, own.input_ids)) for word in range(1, 9)]
    with torch.no_grad():
        worth = Foveal().worth(model.whole(own), model.query(own))
    assert worth.sum().item() == pytest.approx(1, abs=1e-5)
    best = sorted(worth.topk(len(left(model, own)[0])).indices.tolist())
    assert left(model, own) == [[1 + place for place in best]]
    assert len({str(left(model, other)) for other in others}) > 1
    stream = model.language.open(own, None)
    with pytest.raises(InputError, match="without relevance"):
        model.fusion.at_layer(1, model.fusion.at_input(stream, model.whole(own)))


def test_uniform_and_random_choose_by_place_alone():
    batch = batch_of([[7, -1, 5]], images(16))
    assert left(model_of(by="uniform", keep=[1, 0.25]), batch) == [[4, 8, 12, 16]]
    drawn = [left(model_of(by="random", seed=seed), batch) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("by", SELECTORS)
def test_where_an_answer_begins_behind_an_image_its_last_token_stays(by):
    model = model_of(by=by, keep=[1, 0.5, 1 / 16])
    batch = batch_of([[7, 5, -1]], images(16))
    assert left(model, batch) == [[17]]
    asked = batch_of([[7, 5, -1, 8, 9]], images(16), answers=2)
    assert left(model, asked) == [[17]]
    labels = torch.where(asked.prompt, IGNORE, asked.input_ids)
    with torch.no_grad():
        expected, _ = in_place(model, asked) if by not in ("random", "uniform") else (model(asked).logits, None)
        same(model(replace(asked, labels=labels), keep="labelled").logits, expected[0, 17:19])
        same(model(batch, keep="last").logits[:, 0], expected[:, 17])


@pytest.mark.parametrize("side", ["left", "right"])
def test_kept_logits_are_among_all(side):
    model, batch = model_of(by="norm"), batch_of(ROWS, images(*IMAGES), side=side, answers=2)
    labels = torch.where(batch.valid & ~batch.prompt, batch.input_ids, IGNORE)
    with torch.no_grad():
        everything = model(batch).logits
        same(model(batch, keep="last").logits[batch.valid[:, -1]], everything[:, -1:][batch.valid[:, -1]])
        found = model(replace(batch, labels=labels), keep="labelled").logits
    same(found, everything[:, :-1][labels[:, 1:] != IGNORE])


def packed():
    """Two conversations in a row, and each alone."""
    visual = images(8, 6)
    one, two = batch_of([[7, -1, 5, 4, 3]], visual, answers=2), batch_of([[8, 2, -2, 9]], visual, answers=1)
    names = ("input_ids", "valid", "prompt", "image_slot")
    parts = {name: torch.cat([getattr(one, name), getattr(two, name)], dim=1) for name in names}
    lengths = one.input_ids.shape[1], two.input_ids.shape[1]
    parts["segment"] = torch.tensor([[0] * lengths[0] + [1] * lengths[1]])
    parts["positions"] = torch.cat([torch.arange(length) for length in lengths])[None]
    return replace(one, **parts, full=False), one, two


@pytest.mark.parametrize("by", SELECTORS)
def test_packed_conversations_equal_each_alone(by):
    model, (both, one, two) = model_of(by=by), packed()
    with torch.no_grad():
        found, alone = model(both).logits, [model(part).logits for part in (one, two)]
    same(found, torch.cat(alone, dim=1))


@pytest.mark.parametrize("counts", [(8,), (3, 5)])
def test_questions_about_one_image_share_what_is_left(counts):
    """One trunk and two branches, as a mask and as a fan, and each of them alone."""
    visual, model = images(*counts, 2), model_of(by="learned", keep=[1, 0.5, 0.25])
    trunk, branches = [7, *range(-1, -len(counts) - 1, -1)], [[5, 4, 3], [9, 8, 2]]
    alone = [batch_of([trunk + branch], visual, answers=1) for branch in branches]
    stem = alone[0].input_ids.shape[1] - 3
    ids, slots, prompt = (
        torch.cat([getattr(alone[0], name), getattr(alone[1], name)[:, stem:]], dim=1)
        for name in ("input_ids", "image_slot", "prompt")
    )
    branch = torch.tensor([[0] * stem + [1] * 3 + [2] * 3])
    positions = torch.tensor([[*range(stem), *range(stem, stem + 3), *range(stem, stem + 3)]])
    row = replace(
        alone[0], input_ids=ids, image_slot=slots, prompt=prompt, valid=ids > 0, branch=branch, positions=positions,
        full=False,
    )  # fmt: skip
    fan = replace(row, fan=Fan(trunk=stem, branches=2, length=3))
    with torch.no_grad():
        expected = [model(one).logits[0, -3:] for one in alone]
        for batch in (row, fan):
            found = model(batch).logits[0]
            same(found[stem : stem + 3], expected[0])
            same(found[stem + 3 :], expected[1])
    with pytest.raises(InputError, match="several questions about one image in a row"):
        model_of(by="attention")(fan)


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_of_an_image_may_see_each_other(side):
    batch = batch_of([[7, -1, 5, 4], [-2, 3]], images(8, 6), side=side)
    place = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    first = (batch.image_slot >= 0).int().argmax(1, keepdim=True)
    order = torch.where(batch.image_slot >= 0, first, place)
    model = model_of(by="norm")
    with torch.no_grad():
        found, (expected, alive) = (
            model(replace(batch, order=order)).logits,
            in_place(model, replace(batch, order=order)),
        )
    same(found[alive], expected[alive])
    assert not torch.allclose(found[alive], model(batch).logits[alive], atol=1e-3)


def test_a_window_goes_by_the_places_that_were():
    parts = model_of(by="norm").config.dump()
    windowed = ModelConfig.parse({**parts, "language": {**parts["language"], "window": 6}})
    torch.manual_seed(0)
    model, batch = assemble(windowed).eval(), batch_of([[7, -1, 5, 4, 3, 2]], images(8))
    itself = torch.eye(batch.valid.shape[1], dtype=torch.bool)
    visual = model.see(batch)
    mask = model.language.open(replace(batch, full=False)).mask
    stream, alive = model.fusion.over.at_input(model.language.open(batch), visual), batch.valid
    with torch.no_grad():
        for index, layer in enumerate(model.language.layers):
            if index in model.fusion.cuts:
                alive = alive_of(model, batch, index, replace(stream, mask=mask), alive, model.fusion.cuts[index])
            stream = layer(replace(stream, mask=mask & (alive[:, None, None] | itself)))
        expected = model.head(model.language.norm(stream.hidden))
        same(model(batch).logits[alive], expected[alive])


def test_deepstack_adds_its_levels_to_what_is_left():
    torch.manual_seed(0)
    vision = {
        "name": "vit",
        "image_size": 16,
        "patch": 4,
        "width": 8,
        "depth": 2,
        "heads": 2,
        "inner": 8,
        "levels": [1],
    }
    fusion = {"name": "dense_sparse", "by": "norm", "keep": [1, 0.5], "layers": [1]}
    fusion["over"] = {"name": "deepstack", "after": [2]}
    language = {"name": "decoder", "vocabulary": 40, "width": 16, "depth": DEPTH, "heads": 2, "inner": 24}
    model = assemble(ModelConfig.parse({"vision": vision, "fusion": fusion, "language": language})).eval()
    assert len(model.deeper) == model.fusion.levels == 1
    batch = batch_of([[7, -1, 5], [4, 3]], images(16))
    features = torch.randn(16, 8)
    visual = replace(images(16), features=features, levels=(torch.randn(16, 8),))
    batch = replace(batch, visual=visual)
    expected, alive = in_place(model, batch)
    with torch.no_grad():
        found = model(batch).logits
        shallow = model(replace(batch, visual=replace(visual, levels=(torch.zeros(16, 8),)))).logits
    same(found[alive], expected[alive])
    assert not torch.allclose(found[alive], shallow[alive], atol=1e-3)


def losses(model, batch):
    return model(batch).logits[batch.valid & (batch.image_slot < 0)].logsumexp(-1).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("by", SELECTORS)
def test_the_gradient_is_that_of_the_tokens_that_stay(by):
    model, batch = model_of(by=by), batch_of(ROWS, images(*IMAGES))
    found = gradients(model, losses(model, batch))
    scorers = {name for name in found if "scorers" in name}
    assert all(found[name].abs().sum() > 0 for name in scorers) and bool(scorers) == (by == "learned")
    for weight in model.fusion.parameters():
        weight.requires_grad_(False)  # then nothing but the choice is left of them
    alone = gradients(model, losses(model, batch))
    assert alone.keys() == found.keys() - scorers
    for name, expected in alone.items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-4)


def test_scores_learn_alike_packed_and_alone():
    model, (both, one, two) = model_of(by="learned"), packed()
    found = gradients(model, losses(model, both))
    alone = [gradients(model, losses(model, part)) for part in (one, two)]
    for name, grad in found.items():
        torch.testing.assert_close(grad, alone[0][name] + alone[1][name], atol=1e-5, rtol=1e-4)


def test_a_scorer_learns_which_tokens_matter():
    """One of an image's tokens says the answer; after some steps it is among the quarter that stays."""
    torch.manual_seed(1)
    model = model_of(by="learned", keep=[1, 0.25], layers=[1]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    mark = torch.randn(10, SEEN)

    def drawn():
        visual, answers, places = images(*[8] * 16), torch.randint(0, 10, (16,)), torch.randint(0, 8, (16,))
        features = torch.randn(128, SEEN) * 0.1
        features[torch.arange(16) * 8 + places] = 2 * mark[answers]
        batch = batch_of([[7, -1 - i, 5] for i in range(16)], replace(visual, features=features))
        return batch, answers + 10, places

    for _ in range(150):
        batch, answers, _ = drawn()
        loss = torch.nn.functional.cross_entropy(model(batch, keep="last").logits[:, 0], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, answers, places = drawn()
    found = left(model.eval(), batch)
    hits = sum(int(place) + 1 in row for place, row in zip(places, found, strict=True))
    assert hits >= 12, f"{hits} of 16"  # of 2 in 8 by chance: 4


def test_activations_may_be_computed_again():
    model, batch = model_of(by="learned"), batch_of(ROWS, images(*IMAGES))
    expected = gradients(model, losses(model, batch))
    with recomputed(model.layers, wanted=True):
        found = gradients(model, losses(model, batch))
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())


@pytest.mark.parametrize(
    ("schedule", "keep", "stages", "expected"),
    [
        ("none", (1.0, 0.5), 3, (1.0,)),
        ("step", (1.0, 0.5, 0.25), 9, (1.0, 0.5, 0.25)),
        ("step", (256.0, 128.0, 64.0), 9, (256.0, 128.0, 64.0)),
        ("step", (1.0, 64.0), 9, (1.0, 64.0)),
        ("linear", (1.0, 0.2), 5, (1.0, 0.8, 0.6, 0.4, 0.2)),
        ("exponential", (1.0, 0.5, 1 / 16), 3, (1.0, 0.25, 1 / 16)),
        ("exponential", (256.0, 64.0), 3, (256.0, 128.0, 64.0)),
    ],
)
def test_schedules(schedule, keep, stages, expected):
    assert scheduled(schedule, keep, stages) == pytest.approx(expected)


def test_how_many_are_kept():
    wanted = {(9, 0.5): 5, (7, 0.25): 2, (3, 0.1): 1, (0, 0.5): 0, (5, 8.0): 5, (5, 1.0): 5, (9, 4.0): 4}
    assert {(count, share): kept(count, share) for count, share in wanted} == wanted
    assert (stages_of(3, 30), stages_of(3, 4), stages_of(2, 4, (3,))) == ((0, 10, 20), (0, 1, 2), (0, 3))
    layout = Layout(counts=(10, 40), grids=(None, None))
    model = model_of(keep=[0.5, 16, 0.5], by="uniform")
    assert model.fusion.by_layer(layout) == ((5, 20), (5, 16), (5, 16), (5, 16))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"keep": [0.5, 1]}, "grows from 0.5 to 1"),
        ({"keep": [64, 128]}, "grows from 64 to 128"),
        ({"keep": [1, 0]}, "give shares from 0 to 1"),
        ({"keep": [1, 2.5]}, "whole numbers of tokens"),
        ({"keep": [float("nan"), 0.5]}, "give shares from 0 to 1"),
        ({"keep": [1, float("inf")]}, "whole numbers of tokens"),
        ({"keep": [4, 2, 1]}, "from 2 tokens to 1, which is the share of all; give 2 or more"),
        ({"keep": []}, "give shares"),
        ({"schedule": "linear", "keep": [1, 64]}, "two shares or two numbers"),
        ({"schedule": "exponential", "stages": 1}, "at least 2 stages"),
        ({"keep": [1, 0.5, 0.25, 0.2, 0.1]}, "5 stages for 4 layers"),
        ({"layers": [1]}, "2 layers in order from 1 to 3"),
        ({"layers": [2, 2]}, "2 layers in order"),
        ({"layers": [1, 4]}, "2 layers in order"),
        ({"over": "vocabulary"}, "do not stand in the text"),
        ({"over": "gated_cross_attention"}, "do not stand in the text"),
        ({"over": "single_stream"}, "do not stand in the text"),
        ({"over": "dense_sparse"}, "do not stand in the text"),
    ],
)
def test_what_does_not_fit_is_refused_at_assembly(settings, told):
    with pytest.raises(InputError, match=told):
        model_of(**settings)


def test_a_language_model_that_counts_distances_along_its_cache_refuses_it():
    language = {"name": "gpt", "vocabulary": 40, "width": 16, "depth": DEPTH, "heads": 2, "steepest": 8.0}
    with pytest.raises(InputError, match="counts distances along what its cache holds"):
        assemble(ModelConfig.parse({"language": language, "fusion": "dense_sparse"}))
    none = {"name": "dense_sparse", "schedule": "none"}
    assert assemble(ModelConfig.parse({"language": language, "fusion": none})).fusion.cuts == {}


def test_a_masked_model_refuses_it():
    language = {"name": "encoder", "vocabulary": 40, "width": 16, "depth": DEPTH, "heads": 2, "inner": 24}
    parts = {"assembly": "masked", "features": SEEN, "language": language, "heads": {"words": "masked_language"}}
    with pytest.raises(InputError, match="lets visual tokens leave"):
        masked.assemble(ModelConfig.parse({**parts, "fusion": "dense_sparse"}))


def test_a_config_is_read_back():
    for settings in ({}, {"over": {"name": "prefix", "places": 2}, "layers": [1, 3], "by": "norm"}):
        config = model_of(**settings).config
        assert ModelConfig.parse(config.dump()) == config


def test_no_schedule_has_no_layers_where_stages_begin():
    assert model_of(schedule="none", layers=[1, 2]).fusion.cuts == {}
