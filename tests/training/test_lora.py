"""Adapters come on as nothing, and go off into the weights."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Lora, Stage
from foveal.training.lora import adapted, check


def test_fresh_adapters_change_nothing_and_merged_ones_change_nothing_more(world):
    model = world.model().eval()
    batch = world.collate(model)(Stage(steps=1))([[example] for example in world.data[:4]])
    names = set(model.state_dict())
    with torch.no_grad():
        bare = model(batch).logits
        with adapted(model, Lora(rank=2, targets=("query", "mlp.down"))) as merged:
            assert torch.equal(model(batch).logits, bare)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
            moved = model(batch).logits
            assert not torch.allclose(moved, bare, atol=1e-3)
        torch.testing.assert_close(model(batch).logits, moved, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == names
    assert merged == {f"language.layers.{i}.{part}.weight" for i in (0, 1) for part in ("attention.query", "mlp.down")}


def test_two_stages_can_adapt_in_turn_and_other_parts_keep_their_wishes(world):
    model = world.model()
    model.connector.map.bias.requires_grad_(False)
    wished = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for _ in range(2):
        with adapted(model, Lora(rank=2)):
            pass
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wished
    with adapted(model, None) as merged:
        assert merged == set()


def test_what_ends_a_stage_is_told_where_adapters_cannot_be_merged(world):
    model = world.model()
    with pytest.raises(ZeroDivisionError), adapted(model, Lora(rank=2)) as names:
        layer = model.get_submodule(next(iter(names)).removesuffix(".weight"))
        layer.lora_B["default"].weight.data.fill_(float("nan"))
        raise ZeroDivisionError


def test_a_target_that_is_no_linear_map_is_refused(world):
    for target in ("norm", "nope.down"):
        with pytest.raises(InputError, match=f"'{target}'"), adapted(world.model(), Lora(targets=(target,))):
            pass


def test_a_part_that_is_none_is_refused(world):
    with pytest.raises(InputError, match="'visoin'; did you mean 'vision'"):
        check(world.model(), Lora(part="visoin"))
