"""What a table of visual words tells of images in tiles, under a budget."""

from dataclasses import replace

import pytest
import torch

from foveal.models.budget import budgeted
from tests.models.test_tiles import CUTS, RASTER, batch_of, model_of


@pytest.mark.parametrize("mosaic", [{}, RASTER])
@pytest.mark.parametrize("other", [CUTS[1], CUTS[2]])
def test_what_a_table_tells_of_an_image_holds_beside_any_other(mosaic, other):
    view = budgeted(model_of("visual_embedding_table", mosaic).double(), 5)

    def seen(*cuts):
        batch = batch_of(view, cuts)
        pixels = replace(batch.visual, values=batch.visual.values.double())
        made = view.see(replace(batch, visual=pixels, input_ids=torch.ones_like(batch.input_ids)))  # one question
        return made.features.split(list(made.layout.counts))

    with torch.no_grad():
        alone, beside = seen(CUTS[0]), seen(CUTS[0], other)
        torch.testing.assert_close(beside[0], alone[0])
        torch.testing.assert_close(beside[1], seen(other)[0])
