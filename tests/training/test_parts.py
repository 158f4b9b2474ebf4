"""Which parameters learn, at which rate, with which decay."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Lora, Stage, Then
from foveal.training.lora import adapted
from foveal.training.parts import check, learning, optimizer, rate_of, select
from tests.tiny import tiny_tokenizer


def test_parts_are_named_by_the_beginning_of_their_parameters(world):
    model = world.model()
    assert select(model, ["connector"]) == set(model.connector.parameters())
    assert select(model, ["language.layers.1"]) == set(model.language.layers[1].parameters())
    assert select(model, ["head"]) == {model.language.embedding.weight}, "a tied table has two names"
    with pytest.raises(InputError, match=r"'language.layer'; did you mean 'language.layers'"):
        select(model, ["language.layer"])


def test_a_rate_of_what_never_learns_in_its_stage_is_refused(world):
    model = world.model()
    later = Then(at=0.5, train=("vision",))
    check(model, Stage(steps=1, train=("connector",), then=(later,), rates={"vision.blocks": 1e-3, "connector": 1e-4}))
    check(model, Stage(steps=1, train=("language",), rates={"head": 1e-3}))
    with pytest.raises(InputError, match=r"rate for vision, of which nothing learns: it trains connector; leave rates"):
        check(model, Stage(steps=1, train=("connector",), rates={"vision": 1e-3}))
    with adapted(model, Lora(part="vision")):
        check(model, Stage(steps=1, train=(), lora=Lora(part="vision"), rates={"vision": 1e-3}))
        with pytest.raises(InputError, match="it trains its adapters alone"):
            check(model, Stage(steps=1, train=(), lora=Lora(part="vision"), rates={"language": 1e-3}))


def test_a_rate_of_what_a_component_keeps_frozen_is_refused(world):
    model = world.model()
    stage = Stage(steps=1, train=("vision", "language"), rates={"vision": 1e-3})
    model.vision.blocks.requires_grad_(False)
    check(model, stage)
    model.vision.requires_grad_(False)
    with pytest.raises(InputError, match=r"has a rate for vision, which its component keeps frozen; leave rates\.vis"):
        check(model, stage)


def test_a_tied_table_has_the_rate_of_either_name(world):
    model = world.model()
    stage = Stage(steps=1, train=("language",), rates={"head": 1e-2})
    check(model, stage)
    with learning(model, stage) as chosen:
        groups = optimizer(model, chosen, stage).param_groups
    assert {p: group["lr"] for group in groups for p in group["params"]}[model.language.embedding.weight] == 1e-2


def test_what_a_component_froze_stays_frozen(world):
    model = world.model()
    model.connector.map.bias.requires_grad_(False)
    with learning(model, Stage(steps=1, train=("connector",))) as chosen:
        assert [id(p) for p in chosen] == [id(model.connector.map.weight)]
        assert not model.language.embedding.weight.requires_grad
    assert model.language.embedding.weight.requires_grad
    model.requires_grad_(False)
    with pytest.raises(InputError, match="all of it is frozen"), learning(model, Stage(steps=1)):
        pass


def test_the_longest_part_gives_the_rate():
    rates = {"language": 1e-4, "language.layers.1": 1e-5}
    assert rate_of("language.layers.1.mlp.up.weight", rate=1e-3, rates=rates) == 1e-5
    assert rate_of("language.layers.10.mlp.up.weight", rate=1e-3, rates=rates) == 1e-4
    assert rate_of("connector.map.weight", rate=1e-3, rates=rates) == 1e-3


def test_gains_biases_and_embeddings_do_not_decay(world):
    model = world.model()
    stage = Stage(steps=1, rates={"connector": 1e-4}, weight_decay=0.1)
    with learning(model, stage) as chosen:
        groups = optimizer(model, chosen, stage).param_groups
    described = {id(p): (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert described[id(model.connector.map.weight)] == (1e-4, 0.1)
    assert described[id(model.connector.map.bias)] == (1e-4, 0.0)
    assert described[id(model.language.embedding.weight)] == (1e-3, 0.0)
    assert described[id(model.language.norm.weight)] == (1e-3, 0.0)
    assert described[id(model.language.layers[0].mlp.up.weight)] == (1e-3, 0.1)
    assert len(described) == len(chosen) < len(list(model.parameters()))
    assert all(torch.is_tensor(p) for group in groups for p in group["params"])


@pytest.mark.parametrize(("name", "kernels"), [("muon", False), ("muon_kernels", True)])
def test_kernels_take_orthogonal_steps_where_the_stage_says_so(name, kernels):
    model = tiny_tokenizer().model
    stage = Stage(steps=1, train=("vision",), optimizer=name)
    with learning(model, stage) as chosen:
        groups = optimizer(model, chosen, stage).param_groups
    matrices = {id(p) for group in groups if group["matrix"] for p in group["params"]}
    assert (id(model.vision.into.weight) in matrices) is kernels
    assert id(model.vision.codebook.weight) not in matrices and id(model.vision.into.bias) not in matrices
