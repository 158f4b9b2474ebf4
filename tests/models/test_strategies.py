"""Every strategy on a model: as many tokens as planned where it acts, answers unheard, alone as in a batch."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.lookup import names
from foveal.core.types import Batch, Pixels
from foveal.decode.generate import generate
from foveal.decode.shared import generate_shared
from foveal.models import causal
from foveal.models.budget import budgeted, lacking, spent
from foveal.models.config import ModelConfig

DEPTH = 4
NAMES = [name for name in names("relevance.strategies") if name != "all"]
WITHIN = ["fastv", "pyramid_drop"]
ATTENDING = ["holov", "prumerge", "scope", "visionzip", "vispruner"]
VIT = {"name": "vit", "image_size": 32, "patch": 8, "width": 16, "depth": 2, "heads": 2, "inner": 24, "layers": [-1]}
NET = {"name": "efficientnet_lite", "stride": 16, "taps": [16]}
LANGUAGE = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": DEPTH, "heads": 2, "inner": 24}


def model_of(vision=VIT, **parts):
    torch.manual_seed(0)
    config = {"vision": vision, "connector": "linear", "fusion": "prefix", "language": LANGUAGE, **parts}
    model = causal.assemble(ModelConfig.parse(config)).eval()
    for weight in model.language.parameters():  # louder than fresh ones, so that tokens differ in what they are worth
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return model_of()


def batch(model, rows=2, side=32, answer=3):
    layout = model.plan([(side, side)] * rows)
    slots = torch.full((rows, max(layout.counts) + 6), -1)
    for row in range(rows):
        slots[row, 1 : 1 + layout.counts[row]] = torch.arange(*layout.offsets[row : row + 2])
    words = torch.randint(4, 40, slots.shape, generator=torch.Generator().manual_seed(0))
    words[:, -1] = answer
    prompt = torch.ones_like(words, dtype=torch.bool)
    prompt[:, -2:] = False
    pixels = Pixels.whole(torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(1)))
    every = torch.ones_like(prompt)
    return Batch(
        input_ids=words, valid=every, prompt=prompt, image_slot=slots, visual=pixels, owner=torch.arange(rows),
        full=True,
    )  # fmt: skip


def row_of(whole, row, model):
    one = batch(model, rows=1)
    pixels = Pixels.whole(whole.visual.values[row : row + 1])
    return replace(one, input_ids=whole.input_ids[row : row + 1], visual=pixels)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [5, 7])
def test_as_many_tokens_as_planned_reach_every_layer(model, name, budget):
    view = budgeted(model, budget, name)
    given = batch(view)
    out, planned = view(given, keep_hidden=True), view.plan_by_layer([(32, 32)] * 2)
    words = int((given.image_slot[0] < 0).sum())
    lengths = [(state.shape[1] - words) * 2 for state in out.hidden_states[1:-1]]  # what each layer but the last says
    assert tuple(lengths) == planned[:-1] and planned[-1] == 2 * budget
    assert planned[0] == (32 if name in WITHIN else 2 * budget)
    assert torch.isfinite(out.logits).all()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_alone_is_answered_as_in_a_batch(model, name):
    view = budgeted(model, 5, name)
    given = batch(view)
    together = view(given).logits
    for row in range(2):
        torch.testing.assert_close(view(row_of(given, row, view)).logits[0], together[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_heard(model, name):
    view = budgeted(model, 5, name)
    one, other = (view(batch(view, answer=answer), keep_hidden=True) for answer in (3, 9))
    assert torch.equal(one.visual.features, other.visual.features)
    for state, changed in zip(one.hidden_states[:-1], other.hidden_states[:-1], strict=True):
        assert torch.equal(state[:, :-1], changed[:, :-1])


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_all_tokens_are_the_model_itself(model, name):
    given = batch(model)
    torch.testing.assert_close(budgeted(model, 16, name)(given).logits, model(given).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_written_with_a_cache_as_without(model, name):
    view = budgeted(model, 5, name)
    given = batch(view)
    given = replace(given, prompt=torch.ones_like(given.prompt))
    written = generate(view, given, max_new_tokens=4)
    longer = given
    for step in range(4):
        assert torch.equal(view(longer).logits[:, -1].argmax(-1), written[:, step])
        new = written[:, step : step + 1]
        longer = replace(
            longer,
            input_ids=torch.cat([longer.input_ids, new], dim=1),
            image_slot=torch.cat([longer.image_slot, torch.full_like(new, -1)], dim=1),
            prompt=torch.cat([longer.prompt, new < 0], dim=1),
            valid=torch.cat([longer.valid, new >= 0], dim=1),
        )


@torch.no_grad()
@pytest.mark.parametrize("name", WITHIN)
def test_layers_hold_no_more_than_they_read(model, name):
    view = budgeted(model, 5, name)
    given = batch(view, rows=1)
    thin, whole = (one.language.cache(1, given.input_ids.shape[1]) for one in (view, model))
    view(given, cache=thin, keep="last")
    model(given, cache=whole, keep="last")
    assert thin.lengths == tuple(6 + count for count in view.plan_by_layer([(32, 32)]))
    assert thin.size < whole.size


@torch.no_grad()
def test_fastv_keeps_what_the_layer_before_it_attends_to(model):
    view = budgeted(model, 5, "fastv")
    given = batch(view, rows=1)
    hidden = model(given, keep_hidden=True).hidden_states[1]  # what layer 1 reads
    layer, stream = model.language.layers[1], model.language.open(given)
    read = layer.attention_norm(hidden)
    query, key, _ = layer.attention.project(read, stream.rotary)
    last = int(given.prompt[0].nonzero()[-1])
    heads = [torch.softmax(q[last] @ k[: last + 1].T / 8**0.5, dim=-1) for q, k in zip(query[0], key[0], strict=True)]
    share = sum(heads) / len(heads)
    images = (given.image_slot[0] >= 0).nonzero()[:, 0].tolist()
    best = sorted(sorted(images, key=lambda place: -float(share[place]))[:5])
    words = (given.image_slot[0] < 0).nonzero()[:, 0].tolist()
    places = {}
    original = view.language.layers[2].forward
    view.language.layers[2].forward = lambda stream: places.update(at=stream.places) or original(stream)
    try:
        view(given)
    finally:
        del view.language.layers[2].forward
    assert places["at"][0].tolist() == sorted(best + words)


def test_pyramids_halve_where_an_eighth_is_wanted():
    view = budgeted(model_of(), 2, "pyramid_drop")
    assert view.plan_by_layer([(32, 32)]) == (16, 8, 4, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", WITHIN)
def test_rows_that_ask_of_one_picture_keep_their_own(model, name):
    view = budgeted(model, 3, name)
    given = batch(view, rows=2)
    alike = replace(
        given, image_slot=given.image_slot[:1].expand(2, -1), visual=Pixels.whole(given.visual.values[:1]),
        owner=torch.zeros(1, dtype=torch.long), prompt=torch.ones_like(given.prompt),
        input_ids=torch.cat([given.input_ids[:1], given.input_ids[:1].roll(1, 1)]),
    )  # fmt: skip
    shared = generate_shared(view, alike, group=torch.zeros(2, dtype=torch.long), max_new_tokens=3)
    assert torch.equal(shared, generate(view, alike, max_new_tokens=3))


@torch.no_grad()
def test_a_smaller_picture_is_what_is_encoded(model):
    view, seen = budgeted(model, 6, "downsample"), []
    hook = model.vision.register_forward_hook(lambda part, given, made: seen.append(given[0].values.shape))
    made = view.see(batch(view))
    hook.remove()
    assert seen == [(2, 3, 16, 24)] and made.layout.counts == (6, 6)
    wide = Pixels.whole(torch.randn(1, 3, 16, 32))
    assert view.plan([(16, 32)]).counts == (6,)
    assert view.see(replace(batch(view, rows=1), visual=wide)).layout.counts == (6,)


@pytest.mark.parametrize("name", ATTENDING)
def test_an_encoder_without_attention_is_refused(name):
    plain = model_of(NET)
    assert f"strategy '{name}' needs the encoder's attention, and EfficientnetLite has none" in lacking(plain, 5, name)
    with pytest.raises(InputError, match="EfficientnetLite has none to tell"):
        budgeted(plain, 5, name)
    with pytest.raises(InputError, match="EfficientnetLite has none to tell"):
        model_of(NET, allocator={"name": name, "budget": 5})


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ATTENDING])
def test_others_need_no_attention(name):
    plain = model_of(NET)
    assert lacking(plain, 4, name) is None
    view = budgeted(plain, 4, name)
    assert view.plan_by_layer([(64, 64)])[-1] == 4
    assert torch.isfinite(view(batch(view, side=64)).logits).all()


def test_what_the_language_model_cannot_do_is_refused():
    shallow = model_of(language={**LANGUAGE, "depth": 2})
    assert "cuts before layer 2 of a language model with 2; name 1 to 1" in lacking(shallow, 5, "fastv")
    assert lacking(shallow, 5, "fastv", layer=1) is None
    assert "parts 2 layers into 4 stages" in lacking(shallow, 5, "pyramid_drop")
    thinned = model_of(fusion={"name": "dense_sparse", "keep": [1.0, 0.5], "by": "norm"})
    assert "leave it already" in lacking(thinned, 5, "fastv")
    looking = model_of(fusion={"name": "gated_cross_attention", "every": 2})
    assert "do not stand in a text" in lacking(looking, 5, "pyramid_drop")
    sloped = model_of(
        language={"name": "gpt", "vocabulary": 44, "width": 16, "depth": DEPTH, "heads": 2, "steepest": 8.0}
    )
    assert "counts distances along it" in lacking(sloped, 5, "fastv")


def test_features_cannot_be_encoded_anew(model):
    view = budgeted(model, 6, "downsample")
    with torch.no_grad(), pytest.raises(InputError, match="'downsample' changes what is encoded, and the batch brings"):
        view.see(replace(batch(view), visual=model.look(batch(model))))
    with pytest.raises(InputError, match="laid out for that already"):
        spent(model, batch(model), 6, "downsample")


@torch.no_grad()
@pytest.mark.parametrize("name", WITHIN)
def test_a_batch_laid_out_for_all_is_written_under_a_budget(model, name):
    given = batch(model)
    view, told = spent(model, replace(given, prompt=torch.ones_like(given.prompt)), 5, name)
    assert torch.equal(
        generate(view, told, max_new_tokens=3), generate(view, replace(told, seen=None), max_new_tokens=3)
    )


@torch.no_grad()
@pytest.mark.parametrize("class_token", [True, False])
def test_the_encoder_tells_what_it_attends_to(class_token):
    own = {**VIT, "class_token": class_token, "layers": [-2], "select": "default" if class_token else "full"}
    vision = model_of(own).vision
    pixels = Pixels.whole(torch.randn(2, 3, 32, 32))
    told, plain = vision.attended(pixels), vision(pixels)
    assert torch.equal(told.features, plain.features) and plain.attention is None
    hidden = vision.states(pixels.values, {0})[0]
    block = vision.blocks[0]
    shares = block.attention.weights(block.attention_norm(hidden)).mean(1)
    wanted = shares[:, 0, 1:] if class_token else shares.mean(1)
    torch.testing.assert_close(told.attention, wanted.flatten())
    keys = block.attention.key(block.attention_norm(hidden)).unflatten(-1, (2, 8))[:, int(class_token) :]
    torch.testing.assert_close(told.keys, keys.flatten(0, 1))
    with pytest.raises(InputError, match="nothing attends"):
        model_of({**VIT, "layers": [0]}).vision.attended(pixels)


def test_a_connector_that_folds_brings_no_attention():
    folded = model_of(connector={"name": "pixel_shuffle", "factor": 2})
    view = budgeted(folded, 3, "visionzip")
    with torch.no_grad(), pytest.raises(InputError, match="the visual tokens come without it"):
        view.see(batch(view))
