"""A model exports as it stands: no count of a tensor's entries is asked on the way."""

from dataclasses import replace

import pytest
import torch

from foveal.core.lookup import names
from foveal.core.types import Pixels
from foveal.models.budget import ROOM
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from tests.models.test_causal import TINY, asked


class Exported(torch.nn.Module):
    """Logits alone, from plain tensors."""

    def __init__(self, model, batch):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, input_ids, image_slot, pixels):
        visual = Pixels.whole(pixels)
        return self.model(replace(self.batch, input_ids=input_ids, image_slot=image_slot, visual=visual)).logits


def test_export_gives_the_same_logits():
    torch.manual_seed(0)
    model = assemble(ModelConfig.parse(TINY)).eval()
    batch = asked(model)
    given = (batch.input_ids, batch.image_slot, batch.visual.values)
    with torch.no_grad():
        program = torch.export.export(Exported(model, batch), given)
        torch.testing.assert_close(program.module()(*given), model(batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", sorted({*names(ROOM)} - {"fastv", "pyramid_drop"}))  # those cut in the layers
def test_a_model_that_spends_a_budget_exports_too(strategy):
    torch.manual_seed(0)
    model = assemble(ModelConfig.parse({**TINY, "allocator": {"name": strategy, "budget": 3}})).eval()
    batch = asked(model)
    given = (batch.input_ids, batch.image_slot, batch.visual.values)
    with torch.no_grad():
        program = torch.export.export(Exported(model, batch), given)
        other = (given[0].flip(1), given[1], torch.randn_like(given[2]))
        logits = Exported(model, batch)(*other)
        torch.testing.assert_close(program.module()(*other), logits, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(logits, model(batch).logits, atol=1e-3)
