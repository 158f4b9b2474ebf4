from dataclasses import replace

import pytest

from foveal.core.errors import InputError
from foveal.training.objectives.matching import matching


def test_it_is_the_cross_entropy_of_belonging_and_counts_what_is_right(encoder, hidden):
    model = encoder()
    loss, count, parts = matching(model, hidden)
    told = model(hidden).heads["matching"]
    chances, right = told.log_softmax(-1), told.argmax(-1)
    assert count == 4
    assert loss.item() == pytest.approx(-(chances[:3, 0].sum() + chances[3, 1]).item(), rel=1e-5)
    assert parts["accuracy_matching"] == (int((right[:3] == 0).sum() + (right[3] == 1)), 4)


def test_without_foreign_texts_it_says_so(encoder, hidden):
    with pytest.raises(InputError, match="no foreign texts"):
        matching(encoder(), replace(hidden, targets={}))
