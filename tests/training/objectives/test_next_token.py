"""The loss of answer tokens, summed."""

import pytest
import torch.nn.functional as F

from foveal.core.types import IGNORE
from foveal.training.config import Stage
from foveal.training.objectives.next_token import next_token


def test_sum_and_count_are_those_of_all_logits(world):
    model = world.model().eval()
    batch = world.collate(model)(Stage(steps=1))([[example] for example in world.data[:5]])
    loss, count = next_token(model, batch)
    logits, wanted = model(batch).logits[:, :-1], batch.labels[:, 1:]
    whole = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum", ignore_index=IGNORE)
    assert count == int((wanted != IGNORE).sum())
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
