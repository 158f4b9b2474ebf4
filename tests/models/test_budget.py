"""A model under a budget: the same weights, fewer visual tokens, steered by the question alone."""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

import foveal
from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Pixels
from foveal.decode.generate import generate
from foveal.decode.shared import generate_shared
from foveal.layers.relaid import stretched
from foveal.models import causal
from foveal.models.budget import allocator_of, bound, budgeted, either, endow, idle, spent, unneeded, unspent
from foveal.models.config import ModelConfig
from foveal.relevance.pricing import Terms
from foveal.weights.run import Run

PARTS = {
    "vision": {
        "name": "vit",
        "image_size": 32,
        "patch": 8,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "inner": 24,
        "layers": [-1],
    },
    "connector": "linear",
    "fusion": {"name": "prefix", "places": 2},
    "language": {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 2, "heads": 2, "inner": 24},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return causal.assemble(ModelConfig.parse(PARTS)).eval()


def batch(model, ids=None, answer=3):
    layout = model.plan([(32, 32)] * 2)
    longest = max(layout.counts)
    slots = torch.full((2, longest + 6), -1)
    for row in range(2):
        slots[row, 1 : 1 + layout.counts[row]] = torch.arange(*layout.offsets[row : row + 2])
    words = torch.randint(4, 40, slots.shape, generator=torch.Generator().manual_seed(0)) if ids is None else ids
    words = words.clone()
    words[:, -1] = answer
    prompt = torch.ones_like(words, dtype=torch.bool)
    prompt[:, -2:] = False
    pixels = Pixels.whole(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return Batch(
        input_ids=words,
        valid=torch.ones_like(prompt),
        prompt=prompt,
        image_slot=slots,
        visual=pixels,
        owner=torch.arange(2),
    )


def test_a_view_spends_less_and_the_model_stays_as_it_was(model):
    view = budgeted(model, 5)
    assert model.plan([(32, 32)]).counts == (16,) and view.plan([(32, 32)]).counts == (5,)
    assert view.language is model.language and allocator_of(model) is None
    with torch.no_grad():
        seen = view(batch(view)).visual
    assert seen.layout.counts == (5, 5)
    assert budgeted(model, None) is model


def test_a_budget_leaves_the_random_stream_where_it_was(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    budgeted(model, 5)
    spent(model, batch(model), 5)
    spent(model, batch(model), Terms(price=0.1, least=2), "foveal", hears=16)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_floor_of_the_models_own_is_coarser_under_a_lower_budget(model):
    endow(model, {"name": "foveal", "budget": 9, "floor": 3})
    assert (budgeted(model, 5).allocator.floor, budgeted(model, 12).allocator.floor) == (2, 3)
    view, laid = spent(model, batch(unspent(model)), Terms(total=5), floor=3)
    assert sum(view(laid).visual.layout.counts) == 5
    with pytest.raises(InputError, match="a floor of 3 x 3 cells under a budget of 5 visual tokens"):
        budgeted(model, 5, floor=3)


@pytest.mark.parametrize("strategy", ["grid", "random"])
def test_a_strategy_without_a_budget_is_told_of_and_an_unknown_one_refused(model, strategy):
    assert spent(model, batch(model), None, strategy)[0] is model
    assert f"strategy '{strategy}' spends a budget and there is none; give a budget" in idle(model, strategy)
    with pytest.raises(InputError, match=r"unknown component .* 'nope'"):
        spent(model, batch(model), None, "nope")
    assert idle(model, "all") == idle(model, "foveal") == ""
    endow(model, {"name": strategy, "budget": 4})
    assert budgeted(model, None, strategy) is model and idle(model, strategy) == ""
    told = idle(model, "tome")
    assert f"strategy 'tome' spends a budget and none is given, and '{strategy}' has spent the model's own" in told


def test_all_without_a_budget_is_all_that_a_model_with_one_of_its_own_could_see(model):
    endow(model, {"name": "grid", "budget": 4})
    whole = budgeted(model, None, "all")
    assert allocator_of(whole) is None and whole.vision is model.vision
    assert spent(model, batch(unspent(model)), None, "all")[1].seen is None


def test_a_batch_that_is_laid_out_for_what_is_left_is_not_laid_out_again(model):
    endow(model, {"name": "grid", "budget": 4})
    whole = batch(unspent(model))
    view, laid = spent(model, whole, None)
    planned = batch(model, ids=laid.input_ids)
    assert torch.equal(planned.image_slot, laid.image_slot)
    again, kept = spent(model, planned, None)
    assert torch.equal(kept.image_slot, laid.image_slot)
    torch.testing.assert_close(again(kept).logits, view(laid).logits)
    torch.testing.assert_close(model(planned).logits, view(laid).logits)
    with pytest.raises(InputError, match="places for 32 visual tokens and its images have 8; lay it out"):
        model(whole)
    other = replace(whole, image_slot=torch.where(whole.image_slot < 0, -1, whole.image_slot + 1))
    with pytest.raises(InputError, match="places for 33 visual tokens and its images have 32"):
        spent(model, other, None)
    fewer = batch(budgeted(model, 3))
    with pytest.raises(InputError, match="places for 6 visual tokens and its images have 32"):
        spent(model, fewer, None)
    with pytest.raises(InputError, match="places for 6 visual tokens and its images have 8"):
        model(fewer)


def test_an_image_that_no_row_shows_is_none_that_was_cut(model):
    """16 places are those of one whole image, and as many as two images have under a budget of 8."""
    whole = batch(model)
    shown = replace(whole, image_slot=torch.where(whole.image_slot < 16, whole.image_slot, -1))
    assert spent(model, shown, 8, "grid")[1].image_slot[0].tolist()[1:9] == list(range(8))


@pytest.mark.parametrize("number", [np.int64(5), torch.tensor(5)])
def test_whole_numbers_of_any_kind_are_budgets(model, number, monkeypatch):
    view, laid = spent(model, batch(model), number, explore=np.float32(0.5))
    assert view(laid).visual.layout.counts == (5, 5) and either(number, None) == 5
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # who calls is not checked either
    for wrong in (2.5, True, "5"):
        with pytest.raises(InputError, match=f"a budget of {wrong!r} visual tokens an image; give a whole number"):
            budgeted(model, wrong)
        with pytest.raises(InputError, match=f"a budget of {wrong!r} visual tokens an image; give a whole number"):
            either(wrong, None)


def test_all_tokens_are_the_model_itself(model):
    given = batch(model)
    with torch.no_grad():
        for name in ("foveal", "random", "all"):
            assert torch.equal(budgeted(model, 16, name)(given).logits, model(given).logits)


def test_no_answer_steers_what_is_seen(model):
    view = budgeted(model, 5)
    with torch.no_grad():
        one, other = (view.see(batch(view, answer=answer)).features for answer in (3, 9))
        asked = batch(view)
        changed = replace(asked, input_ids=asked.input_ids.clone())
        changed.input_ids[:, -4] = 41
        third = view.see(changed).features
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_what_an_allocator_of_the_model_has_learned_is_kept_at_every_budget():
    torch.manual_seed(0)
    learned = causal.assemble(ModelConfig.parse({**PARTS, "allocator": {"name": "foveal", "budget": 4}}))
    with torch.no_grad():
        learned.allocator.balancer.weigh.bias.fill_(0.5)
    assert learned.plan([(32, 32)]).counts == (4,)
    view = budgeted(learned, 9)
    assert view.allocator.balancer.weigh.bias.tolist() == [0.5] * 3
    assert view.plan([(32, 32)]).counts == (9,) and learned.plan([(32, 32)]).counts == (4,)


def test_what_makes_no_sense_is_refused(model):
    with pytest.raises(InputError, match="a budget of 0 visual tokens"):
        budgeted(model, 0)
    with pytest.raises(InputError, match="fovael"):
        budgeted(model, 4, "fovael")
    text = causal.assemble(ModelConfig.parse({"language": PARTS["language"]}))
    with pytest.raises(InputError, match="spent behind a connector"):
        budgeted(text, 4)


def test_an_allocator_of_the_model_learns_from_its_answers_and_is_kept_with_it(tmp_path):
    torch.manual_seed(0)
    learned = causal.assemble(ModelConfig.parse({**PARTS, "allocator": {"name": "foveal", "budget": 4}}))
    given = batch(learned)
    labels = torch.where(given.prompt, IGNORE, given.input_ids)
    out = learned(replace(given, labels=labels), keep="labelled")
    torch.nn.functional.cross_entropy(out.logits, out.labels).backward()
    assert learned.allocator.balancer.weigh.weight.grad.abs().sum() > 0
    with torch.no_grad():
        learned.allocator.balancer.weigh.bias.add_(0.25)
        again = foveal.load(Run(learned.eval()).save(tmp_path / "run"))
        assert torch.equal(again(given).logits, learned(given).logits)


def test_half_precision_is_cut_too():
    torch.manual_seed(0)
    learned = causal.assemble(ModelConfig.parse({**PARTS, "allocator": {"name": "foveal", "budget": 4}}))
    half = learned.eval().to(torch.bfloat16)
    with torch.no_grad():
        for view in (half, budgeted(half, 5)):
            given = batch(view)
            pixels = replace(given.visual, values=given.visual.values.bfloat16())
            seen = view(replace(given, visual=pixels)).visual
            assert seen.features.dtype == torch.bfloat16 and torch.isfinite(seen.features).all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(budgeted(learned.float(), 5).see(batch(view)).features).all()


@pytest.mark.parametrize("laid", ["for all", "for a budget"])
def test_a_selection_says_what_all_would_if_nobody_saw_the_others(model, laid):
    view, given = budgeted(model, 5, "random"), batch(model)
    with torch.no_grad():
        picked = view.see(batch(view, ids=given.input_ids[:, :11])).boxes
        cells = (picked[:, :2] * 4).round().long()
        chosen = (cells[:, 1] * 4 + cells[:, 0]).view(2, 5)  # of each image's 16
        seen = given.image_slot < 0
        for row in range(2):
            seen[row, 1 + chosen[row]] = True
        places = torch.arange(seen.shape[1]).expand(2, -1)
        whole = model(replace(given, valid=seen, positions=places)).logits[given.image_slot < 0]
        short = replace(batch(view), input_ids=given.input_ids[seen].view(2, -1))
        short = view.spent(given) if laid == "for all" else short
        cut = view(short)
    assert int((short.image_slot >= 0).sum()) == 10
    torch.testing.assert_close(cut.logits[short.image_slot < 0], whole, atol=1e-5, rtol=1e-5)


def test_what_is_written_goes_on_from_where_the_text_would_have_ended(model):
    view, given = budgeted(model, 5), batch(model)
    short = view.spent(given)
    with torch.no_grad():
        new = generate(view, short, max_new_tokens=4)
        for step in range(4):
            ends = {"input_ids": new[:, :step], "valid": new[:, :step] >= 0, "image_slot": -(new[:, :step] >= 0).long()}
            ends["prompt"] = ~ends["valid"]
            longer = {name: torch.cat([getattr(short, name), end], 1) for name, end in ends.items()}
            assert torch.equal(view(replace(short, **longer)).logits[:, -1].argmax(-1), new[:, step])
            places = stretched(replace(short, **longer), short.seen).positions
            assert places[:, -1].tolist() == [given.input_ids.shape[1] + step - 1] * 2


def test_rows_that_share_a_picture_hear_more_of_the_question_than_they_share(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # so that what is seen decides what is said
    view = budgeted(model, 3, explore=0.0)
    given = batch(view)
    settings = {"group": torch.tensor([0, 0]), "max_new_tokens": 3}
    for seed in range(4):
        words = given.input_ids[:1].repeat(2, 1)
        words[:, -4:] = torch.randint(4, 40, (2, 4), generator=torch.Generator().manual_seed(seed))
        parts = {"input_ids": words, "image_slot": given.image_slot[:1].repeat(2, 1), "owner": torch.tensor([0])}
        rows = replace(given, **parts, prompt=given.valid, visual=Pixels.whole(given.visual.values[:1]))
        said = generate(view, rows, max_new_tokens=3)
        assert torch.equal(generate_shared(view, rows, **settings), said)
        assert torch.equal(generate_shared(view, replace(rows, seen=view.see(rows)), **settings), said)


def test_places_of_a_conversation_go_on_after_a_budget(model):
    view, given = budgeted(model, 5), batch(model)
    counted = torch.arange(given.input_ids.shape[1]).expand(2, -1)
    said = [generate(view, view.spent(replace(given, positions=p)), max_new_tokens=4) for p in (None, counted)]
    assert torch.equal(*said)


def test_what_does_not_fit_the_context_in_its_place_is_refused(model):
    view = budgeted(model, 2)
    view.language.context = 12
    with pytest.raises(InputError, match="its place among 22 tokens, and the context has 12"), torch.no_grad():
        view(batch(view))


def test_an_answer_that_would_pass_the_context_in_its_place_is_refused_before_its_first_word(model):
    view = budgeted(model, 2)
    view.language.context = 24
    assert generate(view, batch(view), max_new_tokens=2).shape == (2, 2)
    with pytest.raises(InputError, match="a prompt of 22 tokens and 3 new ones do not fit the context of 24"):
        generate(view, batch(view), max_new_tokens=3)


def test_a_budget_that_holds_all_of_an_image_binds_nothing(model):
    count = model.plan([(24, 24)]).total
    assert bound(model, [(24, 24)]) is model
    for strategy in ("foveal", "average_pool"):
        assert allocator_of(bound(budgeted(model, count, strategy), [(24, 24)])) is None
        tight = budgeted(model, count - 1, strategy)
        assert bound(tight, [(24, 24)]) is tight
    within = budgeted(model, count - 1, "fastv", layer=1)
    assert bound(within, [(24, 24)]) is within


def test_a_budget_above_all_tokens_reads_all_and_says_so(model):
    layout = model.plan([(32, 32)])
    assert unneeded(layout, 17) == "a budget of 17 for pictures of at most 16 visual tokens: all are read"
    assert unneeded(layout, 16) == unneeded(layout, 3) == unneeded(layout, None) == ""
    assert unneeded(budgeted(model, 16).plan([(32, 32)]), 16) == unneeded(budgeted(model, 3).plan([(32, 32)]), 3) == ""
    assert "of at most 16" in unneeded(budgeted(model, 99).plan([(32, 32)]), 99)
    assert unneeded(layout, Terms(total=99)) == ""


@pytest.mark.parametrize(("said", "hears"), [({"budget": 9}, 16), ({"budget": 9, "hears": 0}, 0)])
def test_who_is_given_another_allocator_keeps_what_is_not_said_of_it(model, tmp_path, said, hears):
    """And what it has learned of that; the run that is saved describes all that it holds."""
    endow(model, {"name": "foveal", "hears": 16, "cover": 0.5})
    for learned in model.allocator.parameters():
        torch.nn.init.ones_(learned)
    endow(model, {"name": "foveal", **said})
    assert (model.allocator.budget, model.allocator.cover, model.allocator.hears) == (9, 0.5, hears)
    assert (model.allocator.hearing is None) == (hears == 0)
    Run(model, None).save(tmp_path / "run")
    again = foveal.load(tmp_path / "run").model
    held = again.state_dict()
    assert held.keys() == model.state_dict().keys()
    assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())
