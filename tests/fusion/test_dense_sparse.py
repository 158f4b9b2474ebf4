"""Tokens that leave on the way: as if they were masked in place, in every batch, with a cache and without."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout
from foveal.decode.generate import generate
from foveal.decode.shared import generate_shared
from foveal.fusion.dense_sparse import kept
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from tests.fusion.thinned import (
    DEPTH,
    IMAGES,
    ROWS,
    SELECTORS,
    batch_of,
    images,
    in_place,
    longer,
    model_of,
    plain_of,
    row_of,
    same,
    step,
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("by", ["learned", "attention", "norm", "relevance"])
def test_as_if_they_were_masked_in_place(by, side):
    model, batch = model_of(by=by), batch_of(ROWS, images(*IMAGES), side=side, answers=1)
    expected, alive = in_place(model, batch)
    with torch.no_grad():
        found = model(batch).logits
    same(found[alive], expected[alive])
    assert not found[~alive].any()
    left = [sum(kept(count, 0.25) for count in row) for row in ((8, 3), (12,), (), (5,))]
    assert (alive & (batch.image_slot >= 0)).sum(1).tolist() == left


@pytest.mark.parametrize(
    ("language", "by"), [*product(["decoder", "opt"], SELECTORS), ("gpt", "norm"), ("gpt", "attention")]
)
def test_a_row_alone_equals_itself_in_a_batch(by, language):
    model, visual = model_of(language, by=by), images(*IMAGES)
    whole = {side: batch_of(ROWS, visual, side=side) for side in ("left", "right")}
    with torch.no_grad():
        found = {side: model(batch).logits for side, batch in whole.items()}
        for i in range(len(ROWS)):
            alone = row_of(whole["right"], i)
            expected, length = model(alone).logits[0], alone.input_ids.shape[1]
            same(found["right"][i, :length], expected)
            same(found["left"][i, -length:], expected)


def test_scores_learn_in_double_precision():
    seen = images(*IMAGES)
    batch = batch_of(ROWS, seen.with_features(seen.features.double()), side="right", answers=1)
    model = model_of(by="learned").double()
    with torch.no_grad():
        expected = model(batch).logits
    found = model(batch).logits
    found.square().sum().backward()
    assert torch.equal(found, expected) and found.dtype == torch.float64
    assert all(parameter.grad.any() for parameter in model.fusion.scorers.parameters())


@pytest.mark.parametrize("by", SELECTORS)
def test_exactly_as_many_as_planned(by):
    model, batch = model_of(by=by), batch_of([[7, -1, 5, 4, -2, 3]], images(8, 3))
    with torch.no_grad():
        states = model(batch, keep_hidden=True).hidden_states
    planned = model.plan_by_layer(batch.visual.layout)
    assert planned == (11, 6, 3, 3)
    assert tuple(state.shape[1] - 4 for state in states[1:DEPTH]) == planned[:-1]  # what each layer but the last says
    assert states[0].shape[1] - 4 == planned[0] and states[-1].shape[1] - 4 == planned[0]


def test_a_plan_of_a_model_that_thins_nothing():
    plain = assemble(ModelConfig.parse({**model_of().config.dump(), "fusion": "prefix"}))
    assert plain.plan_by_layer(Layout(counts=(4, 2), grids=(None, None))) == (6,) * DEPTH


def test_without_a_schedule_it_is_the_plain_model_bit_for_bit():
    model, batch = model_of(schedule="none"), batch_of(ROWS, images(*IMAGES))
    with torch.no_grad():
        assert torch.equal(model(batch).logits, plain_of(model)(batch).logits)
    assert not list(model.fusion.parameters()) and not model.fusion.hears_later


def test_words_that_mark_images_are_marked():
    prefix = {"name": "prefix", "marks": [4, 9]}
    config = model_of(schedule="none", over=prefix).config.dump()
    config["connector"] = {"name": "visual_embedding_table", "entries": 12, "indicators": 2, "factor": 1}
    model, plain = (
        assemble(ModelConfig.parse({**config, "fusion": fusion})).eval() for fusion in (config["fusion"], prefix)
    )
    plain.load_state_dict(model.state_dict())
    visual = replace(images(8), layout=Layout.of_grids([(2, 4)]))
    batch = batch_of([[7, 4, -1, 9, 5]], visual)
    bare = replace(batch, input_ids=torch.where(batch.input_ids == 4, 3, batch.input_ids))
    with torch.no_grad():
        assert torch.equal(model(batch).logits, plain(batch).logits)
        assert not torch.equal(model(bare).logits, model(batch).logits)


def test_text_alone_is_the_plain_models_bit_for_bit():
    model, batch = model_of(), replace(batch_of([[5, 4, 3], [7, 6]], images(1)), visual=None)
    with torch.no_grad():
        assert torch.equal(model(batch).logits, plain_of(model)(batch).logits)
        cache = model.language.cache(2, 3)
        assert torch.equal(model(batch, cache=cache).logits, plain_of(model)(batch).logits)
    assert cache.lengths == (3,) * DEPTH


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("by", ["learned", "attention", "norm", "relevance"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [[7, -1, 5, 4], [7, -2, 5, 9]]])
def test_what_a_cache_holds_is_enough(by, side, rows):
    counts = IMAGES if rows is not ROWS[:1] else IMAGES[:2]
    model = model_of(by=by)
    batch = batch_of(rows, images(*counts[: sum(x < 0 for row in rows for x in row)]), side=side)
    new = torch.randint(1, 39, (len(rows), 4), generator=torch.Generator().manual_seed(3))
    length = batch.input_ids.shape[1]
    cache = model.language.cache(len(rows), length + 4)
    with torch.no_grad():
        model(batch, cache=cache, keep="last")
        for i, count in enumerate((1, 1, 2)):  # one by one, and two at once
            part = new[:, i : i + count]
            found = model(step(part, full=batch.full and count == 1), cache=cache).logits
            expected, _ = in_place(model, longer(batch, new[:, : i + count]))
            same(found, expected[:, -count:])


def test_each_layer_has_room_for_what_it_holds():
    model, batch = model_of(keep=[1, 0.5, 4]), batch_of([[7, -1, 5, 4]], images(16))
    cache, dense = model.language.cache(1, 25), plain_of(model).language.cache(1, 25)
    with torch.no_grad():
        model(batch, cache=cache, keep="last")
        plain_of(model)(batch, cache=dense, keep="last")
    assert cache.lengths == tuple(3 + count for count in model.plan_by_layer(batch.visual.layout))
    rooms = [count + 3 + 6 for count in model.plan_by_layer(batch.visual.layout)]
    assert (cache.size, dense.size) == (sum(rooms) * 2 * 8 * 4, 25 * DEPTH * 2 * 8 * 4)
    with pytest.raises(InputError, match="do not fit a cache of 25"), torch.no_grad():
        model(step(torch.ones(1, 7, dtype=torch.long)), cache=cache)


@pytest.mark.parametrize("side", ["left", "right"])
def test_images_in_a_later_pass_thin_out_too(side):
    model, visual = model_of(by="norm"), images(8, 6)
    first = batch_of([[7, -1, 5], [4, 3]], replace(visual, layout=visual.layout), side=side)
    second = batch_of([[7, 2, 3], [9, -2, 5]], visual, side=side)
    cache = model.language.cache(2, 40)
    with torch.no_grad():
        model(first, cache=cache)
        model(second, cache=cache)
        found = model(step(torch.tensor([[8], [9]])), cache=cache).logits
    names = ("input_ids", "valid", "prompt", "image_slot")
    both = replace(first, **{n: torch.cat([getattr(first, n), getattr(second, n)], dim=1) for n in names}, full=False)
    expected, _ = in_place(model, longer(both, torch.tensor([[8], [9]])))
    same(found, expected[:, -1:])


@pytest.mark.parametrize("by", SELECTORS)
def test_generated_with_a_cache_as_without(by):
    model, batch = model_of(by=by), batch_of(ROWS, images(*IMAGES))
    written = generate(model, batch, max_new_tokens=5)
    for i in range(len(ROWS)):
        alone = row_of(batch, i)
        for token in written[i]:
            with torch.no_grad():
                assert model(alone).logits[0, -1].argmax() == token
            alone = longer(alone, token.view(1, 1))


def test_rows_that_share_an_image_may_keep_other_tokens_of_it():
    model = model_of(by="attention")
    batch = batch_of([[7, -1, 5, 4], [7, -1, 5, 9, 8]], images(16))
    shared = generate_shared(model, batch, group=torch.zeros(2, dtype=torch.long), max_new_tokens=4)
    assert torch.equal(shared, generate(model, batch, max_new_tokens=4))
