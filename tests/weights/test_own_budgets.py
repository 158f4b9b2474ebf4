"""A checkpoint that has been given a budget of its own is still called as its reference is."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.budget import endow
from tests.weights import test_llava_next, test_qwen_vl


def of_llava_next(folder):
    test_llava_next.reference(0).save_pretrained(folder)
    plain = load(folder)
    return plain, test_llava_next.inputs(plain, "LlavaNext", [[(30, 50)], [(20, 20)]])


def of_qwen(folder):
    test_qwen_vl.reference(0, "qwen3_vl").save_pretrained(folder)
    return load(folder), test_qwen_vl.inputs("qwen3_vl", [[(1, 4, 6)], [(1, 4, 4)]])


@pytest.mark.parametrize("of", [of_llava_next, of_qwen])
def test_a_budget_of_its_own_is_that_budget_given(tmp_path, of):
    plain, given = of(tmp_path / "whole")
    endow(plain.model, {"name": "foveal", "budget": 2})
    own, bare = load(plain.save(tmp_path / "run")), load(tmp_path / "whole")
    with pytest.raises(InputError, match=r"no rule for allocator\..*; write it as a run, which keeps all of it"):
        own.save_pretrained(tmp_path / "theirs")
    wanted = bare.generate(**given, max_new_tokens=3, budget=2)
    assert torch.equal(own.generate(**given, max_new_tokens=3), wanted)
    with torch.no_grad():
        said = own(**given, labels=given["input_ids"])
    assert said.logits.shape[1] < given["input_ids"].shape[1] and said.loss.isfinite()
    assert torch.equal(said.logits[:, -1].argmax(-1), wanted[:, 0])
    assert torch.equal(plain.generate(**given, max_new_tokens=3), wanted)  # and before it was saved


def test_one_that_changes_what_is_encoded_says_so(tmp_path):
    model, given = of_llava_next(tmp_path)
    endow(model.model, {"name": "downsample", "budget": 2})
    with pytest.raises(InputError, match="strategy 'downsample' changes what is encoded"):
        model(**given)
