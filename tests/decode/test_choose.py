import torch

from foveal.core.types import Batch
from foveal.decode.choose import Chooser, choose


class Parrot:
    """Chooses the first token."""

    def choose(self, batch):
        return batch.input_ids[:, 0]


def test_an_answer_is_one_step_long_whatever_steers_writing():
    ids = torch.tensor([[3, 1], [5, 1]])
    valid = torch.ones_like(ids, dtype=torch.bool)
    batch = Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1))
    assert isinstance(Parrot(), Chooser)
    assert choose(Parrot(), batch, group=None, max_new_tokens=9, stop_ids=()).tolist() == [[3], [5]]
