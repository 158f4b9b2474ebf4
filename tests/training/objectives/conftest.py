"""A tiny encoder under the heads of pretraining, and a batch with parts hidden."""

import pytest
import torch

from foveal.core.types import IGNORE, Batch, Layout, VisualTokens
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble

HEADS = {"words": "masked_language", "regions": "region_prediction", "matching": "classification"}


@pytest.fixture
def encoder():
    """`encoder(regions={"labels": 4})`: fresh weights, the same each time."""

    def make(**heads):
        torch.manual_seed(0)
        language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2}
        parts = {"assembly": "masked", "fusion": "single_stream", "features": 6, "language": language}
        given = {**HEADS, **{name: {"name": HEADS[name], **more} for name, more in heads.items()}}
        return assemble(ModelConfig.parse({**parts, "heads": given})).eval()

    return make


@pytest.fixture
def hidden():
    """Four rows of four words and three regions; words and regions are hidden, the last row's text is foreign."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 9, (4, 7), generator=chance)
    slots = torch.full((4, 7), -1)
    slots[:, 4:] = torch.arange(12).view(4, 3)
    labels = torch.full_like(ids, IGNORE)
    labels[0, 1], labels[2, 3] = 5, 8
    seen = torch.randn(12, 6, generator=chance)
    visual = VisualTokens.on_layout(seen, Layout(counts=(3,) * 4, grids=(None,) * 4))
    regions = torch.zeros(12, dtype=torch.bool)
    regions[[0, 1, 7, 10]] = True
    targets = {"regions": regions, "matching": torch.tensor([0, 0, 0, 1])}
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(
        input_ids=ids, valid=valid, prompt=valid, image_slot=slots, labels=labels, targets=targets, visual=visual
    )
