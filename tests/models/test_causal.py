"""The assembly: what a question may change, what a batch may not, and that everything learns."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Layout, Pixels, VisualTokens
from foveal.models.assembly import empty
from foveal.models.causal import Causal, assemble
from foveal.models.config import ModelConfig

TINY = {
    "vision": {"name": "vit", "image_size": 16, "patch": 8, "width": 12, "depth": 2, "heads": 2, "inner": 16},
    "connector": {"name": "mlp", "depth": 2},
    "fusion": {"name": "prefix", "places": 2},
    "language": {"name": "decoder", "vocabulary": 30, "width": 16, "depth": 2, "heads": 2, "inner": 24, "context": 64},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return assemble(ModelConfig.parse(TINY)).eval()


def asked(model, images=2, words=5):
    layout = model.plan([(16, 16)] * images)
    per_image = layout.total // images
    slots = torch.cat([torch.arange(layout.total).view(images, per_image), torch.full((images, words), -1)], dim=1)
    ids = torch.randint(1, 30, slots.shape, generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(slots.shape[1]) >= slots.shape[1] - 2, ids, IGNORE)
    return Batch(
        input_ids=ids,
        valid=torch.ones_like(ids, dtype=torch.bool),
        prompt=labels == IGNORE,
        image_slot=slots,
        visual=Pixels.whole(torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(2))),
        owner=torch.arange(images),
        labels=labels,
        full=True,
    )


def test_every_trainable_parameter_learns(model):
    batch = asked(model)
    output = model(batch, keep="labelled")
    output.logits.square().sum().backward()
    assert output.logits.shape[0] == 4
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    read_by_last_layer_only = [n for n in unreached if not n.startswith("vision.")]  # taps stop before the last block
    assert read_by_last_layer_only == []


def test_an_answer_leaves_every_visual_token_alone(model):
    batch = asked(model)
    other = replace(batch, input_ids=torch.where(batch.prompt, batch.input_ids, batch.input_ids % 29 + 1))
    assert torch.equal(model(batch).visual.features, model(other).visual.features)


def test_later_words_change_nothing_before_them(model):
    batch = asked(model)
    ids = batch.input_ids.clone()
    ids[:, -1] = ids[:, -1] % 29 + 1
    with torch.no_grad():
        torch.testing.assert_close(model(replace(batch, input_ids=ids)).logits[:, :-1], model(batch).logits[:, :-1])


def test_kept_logits_are_among_all(model):
    batch = asked(model)
    with torch.no_grad():
        everything = model(batch).logits
        torch.testing.assert_close(model(batch, keep="last").logits, everything[:, -1:])
        torch.testing.assert_close(model(batch, keep="labelled").logits, everything[:, -3:-1].flatten(0, 1))


@pytest.mark.parametrize("places", [[(0, 3)], [(0, 2), (0, 5), (1, 5)], [(1, 0)], []])
def test_the_last_layer_speaks_at_labelled_places_alone(model, monkeypatch, places):
    batch = asked(model)
    labels = torch.full_like(batch.labels, IGNORE)
    for row, place in places:
        labels[row, place] = 7 + row + place
    batch, asked_for, last = replace(batch, labels=labels), [], model.language.layers[-1]
    only = last.only
    monkeypatch.setattr(last, "only", lambda stream, at: asked_for.append(at) or only(stream, at))
    alone = model(batch, keep="labelled")
    assert [at.shape[1] for at in asked_for] == ([2 if len(places) == 3 else 1] if any(at for _, at in places) else [])
    slopes = torch.autograd.grad(alone.logits.square().sum(), list(model.language.parameters()), allow_unused=True)
    monkeypatch.setattr(Causal, "_only", lambda self, batch, keep, stays: None)
    whole = model(batch, keep="labelled")
    torch.testing.assert_close(alone.logits, whole.logits, atol=1e-6, rtol=1e-5)
    assert torch.equal(alone.labels, whole.labels)
    assert alone.labels.tolist() == [7 + row + place for row, place in places if place]
    theirs = torch.autograd.grad(whole.logits.square().sum(), list(model.language.parameters()), allow_unused=True)
    for weight, ours, other in zip(model.language.parameters(), slopes, theirs, strict=True):
        none = torch.zeros_like(weight)
        ours, other = (none if slope is None else slope for slope in (ours, other))
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", ["last", "labelled"])
def test_hooks_of_the_last_layer_run_where_it_speaks_at_some_places(model, keep):
    batch, widths, last = asked(model), [], model.language.layers[-1]
    expected = model(batch, keep=keep).logits
    last.register_forward_pre_hook(lambda part, given: widths.append(given[0].hidden.shape[1]))
    last.register_forward_hook(lambda part, given, says: widths.append(says.hidden.shape[1]))
    assert torch.equal(model(batch, keep=keep).logits, expected)
    assert widths[0] == batch.input_ids.shape[1] > widths[1]


def test_sharded_layers_say_the_same_at_some_places(model):
    batch = asked(model)
    expected = [model(batch, keep=keep).logits for keep in ("last", "labelled")]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh, sharded = init_device_mesh("cpu", (1,)), copy.deepcopy(model)
        for part in (*sharded.language.layers, sharded):
            fully_shard(part, mesh=mesh)
        for keep, logits in zip(("last", "labelled"), expected, strict=True):
            assert torch.equal(sharded(batch, keep=keep).logits, logits)
    finally:
        dist.destroy_process_group()


def test_ready_features_stand_for_pixels(model):
    batch = asked(model)
    with torch.no_grad():
        ready = replace(batch, visual=model.vision(batch.visual))
        assert torch.equal(model(ready).logits, model(batch).logits)


def test_images_without_eyes_are_refused(model):
    blind = assemble(ModelConfig.parse({"language": TINY["language"]}))
    with pytest.raises(InputError, match="no vision encoder"):
        blind(asked(model))
    with pytest.raises(InputError, match="2 images for a model without a vision encoder"):
        blind.plan([(16, 16)] * 2)


def test_tied_heads_share_the_table():
    tied = assemble(ModelConfig.parse({**TINY, "head": {"name": "language_model", "tied": True}}))
    assert tied.head.map.weight is tied.language.embedding.weight


def test_an_empty_model_takes_no_memory():
    assert all(p.is_meta for p in empty(ModelConfig.parse(TINY)).parameters())


def test_config_round_trip():
    config = ModelConfig.parse(TINY)
    assert ModelConfig.parse(config.dump()) == config


def test_equal_configs_have_one_hash():
    parts = {**TINY, "heads": {"words": "masked_language"}}
    assert len({ModelConfig.parse(parts), ModelConfig.parse(parts), ModelConfig.parse(TINY)}) == 2


def test_unknown_part_has_a_hint():
    with pytest.raises(InputError, match="did you mean 'vision'"):
        ModelConfig.parse({**TINY, "visoin": {}})


def test_layouts_of_visual_tokens_agree_with_the_plan(model):
    visual = model.see(asked(model))
    assert isinstance(visual, VisualTokens) and visual.layout == model.plan([(16, 16)] * 2)
    assert isinstance(visual.layout, Layout)
