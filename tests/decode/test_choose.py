import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.labels import by_question
from foveal.core.types import IGNORE, Batch
from foveal.decode.choose import Chooser, Picker, choose, places, worded


def batch(ids, **more):
    ids = torch.tensor(ids)
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), **more)


class Parrot:
    """Chooses the first token."""

    def choose(self, batch):
        return batch.input_ids[:, :1]


def test_an_answer_is_what_the_model_chooses_whatever_steers_writing():
    assert isinstance(Parrot(), Chooser)
    given = batch([[3, 1], [5, 1]])
    assert choose(Parrot(), given, group=None, max_new_tokens=9, stop_ids=()).tolist() == [[3], [5]]


def test_of_choices_it_is_the_words_of_the_best_row():
    ids = [[1, 7, 2, 0], [1, 8, 9, 2], [1, 5, 2, 0], [1, 6, 2, 0]]
    labels = torch.tensor([[-100, 7, 2, -100], [-100, 8, 9, 2], [-100, 5, 2, -100], [-100, 6, 2, -100]])
    given = batch(ids, choices=2, labels=labels)
    scores = torch.tensor([[0.0], [1.0], [5.0], [-1.0]])
    best, worst = (by_question(told, given).argmax(1) for told in (scores, -scores))
    assert worded(best, given).tolist() == [[8, 9, 2], [5, 2, IGNORE]]
    assert worded(worst, given).tolist() == [[7, 2], [6, 2]]
    with pytest.raises(InputError, match="does not say which words its choices are"):
        worded(best, batch(ids, choices=2))


class Last:
    """Likes the last of two choices best."""

    def choose(self, batch):
        return batch.input_ids[1::2]

    def pick(self, batch):
        return torch.ones(len(batch.input_ids) // 2, dtype=torch.long)


def test_choices_are_told_by_their_places_and_answers_by_their_tokens():
    assert isinstance(Last(), Picker) and not isinstance(Parrot(), Picker)
    ids = [[3, 1], [5, 1], [3, 1], [5, 1]]
    assert places(Last(), batch(ids, choices=2), group=None).tolist() == [[1], [1]]
    assert places(Parrot(), batch(ids), group=None).tolist() == [[3], [5], [3], [5]]
