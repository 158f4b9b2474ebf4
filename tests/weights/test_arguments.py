import pytest
import torch

from foveal.core.errors import InputError
from foveal.weights.arguments import heeded, same, unneeded


def test_harmless_arguments_are_left_out_and_others_are_named():
    given = {"labels": 1, "return_dict": True, "use_cache": False, "head_mask": None}
    assert heeded(given, ("labels", "ans")) == {"labels": 1}
    assert heeded({"return_dict": 7}, ("return_dict",)) == {"return_dict": 7}
    for wrong, said in (
        ({"label": 1}, "unknown argument 'label'; did you mean 'labels'"),
        ({"return_dict": False}, "return_dict=False is not supported; leave it out"),
        ({"inputs_embeds": torch.zeros(2, 3)}, r"inputs_embeds=a tensor \[2, 3\] is not supported"),
    ):
        with pytest.raises(InputError, match=said):
            heeded(wrong, ("labels", "ans"))


def test_what_a_call_does_not_name_may_change_nothing():
    def call(labels=None, **idle):
        unneeded(idle, call)
        return labels

    assert call(3, return_dict=True) == 3
    with pytest.raises(InputError, match="did you mean 'labels'"):
        call(label=3)
    with pytest.raises(InputError, match="output_attentions=True"):
        call(output_attentions=True)


def test_numbers_that_differ_are_both_told():
    same("rows of a mask", 2, "of input_ids", 2)
    with pytest.raises(InputError, match=r"^1 rows of a mask but 2 of input_ids; give one to each$"):
        same("rows of a mask", 1, "of input_ids", 2)
