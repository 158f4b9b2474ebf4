"""Visual tokens scored against word embeddings."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE
from foveal.training.config import Stage
from foveal.training.objectives.cells import cells


@pytest.fixture
def seen(world):
    model = world.model()
    return model, world.collate(model, cells=True)(Stage(steps=1))([[example] for example in world.data[::3]])


def test_each_labelled_cell_is_a_choice_among_words(seen):
    model, batch = seen
    labels = batch.targets["cells"].clone()
    labels[::2] = IGNORE
    loss, count = cells(model, replace(batch, targets={"cells": labels}))
    scores = (model.see(batch).features @ model.language.embedding.weight.T).log_softmax(-1)
    own = -scores[torch.arange(len(labels)), labels.clamp(min=0)]
    assert count == int((labels != IGNORE).sum()) > 0
    assert loss.item() == pytest.approx(own[labels != IGNORE].sum().item(), rel=1e-5)


def test_gradients_reach_connector_and_words_and_no_layer(seen):
    model, batch = seen
    cells(model, batch)[0].backward()
    assert model.connector.map.weight.grad.abs().sum() > 0
    assert model.language.embedding.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.language.layers.parameters())


def test_labels_must_be_there_and_fit(seen):
    model, batch = seen
    with pytest.raises(InputError, match="names no cells"):
        cells(model, replace(batch, targets={}))
    with pytest.raises(InputError, match="3 cell labels but 48 visual tokens"):
        cells(model, replace(batch, targets={"cells": torch.zeros(3, dtype=torch.long)}))
