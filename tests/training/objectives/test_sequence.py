from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.training.objectives.sequence import sequence


class Told(torch.nn.Module):
    """A model that says these, whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, batch):
        return SimpleNamespace(logits=self.logits)


def test_tokens_count_by_their_weights():
    torch.manual_seed(0)
    logits, follow = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    weighs = torch.tensor([[1.0, 0.0, 0.1], [1.0, 1.0, 0.0]])
    ids = torch.zeros(2, 3, dtype=torch.long)
    whole = torch.ones_like(ids, dtype=torch.bool)
    batch = Batch(
        input_ids=ids, valid=whole, prompt=whole, image_slot=ids - 1, targets={"follow": follow, "weighs": weighs}
    )
    model = Told(logits)
    loss, count, parts = sequence(model, batch)
    assert parts == {}
    chances = logits.softmax(-1).gather(-1, follow[..., None])[..., 0]
    torch.testing.assert_close(loss, -(chances.log() * weighs).sum())
    assert count == pytest.approx(3.1)
    both = sequence(model, replace(batch, targets={**batch.targets, "task": torch.tensor([4, 0])}))[2]
    assert set(both) == {"find", "detect"}
    torch.testing.assert_close(both["find"][0] + both["detect"][0], loss)
    assert both["find"][1] == pytest.approx(1.1) and both["detect"][1] == 2
    with pytest.raises(InputError, match="spells no objects"):
        sequence(model, replace(batch, targets={}))
