import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.labels import by_question, next_labels
from foveal.core.types import Batch


def batch(**more):
    ids = torch.arange(12).view(4, 3)
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), **more)


def test_a_token_predicts_the_one_after_it():
    labels = torch.arange(12).view(4, 3) + 20
    assert next_labels(batch(labels=labels)).tolist() == labels[:, 1:].tolist()
    with pytest.raises(InputError, match="no labels"):
        next_labels(batch())


def test_choices_of_one_question_compete():
    told = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert by_question(told, batch(choices=2)).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert batch(choices=2).to(torch.float64).choices == 2


@pytest.mark.parametrize(("choices", "labels", "said"), [(0, 1, "no choices to pick from"), (2, 3, "tells 3 scores")])
def test_what_has_no_choices_or_more_than_one_score_is_told(choices, labels, said):
    with pytest.raises(InputError, match=said):
        by_question(torch.zeros(4, labels), batch(choices=choices))
