from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.objectives.masked_words import masked_words


def test_it_is_the_cross_entropy_of_the_hidden_words(encoder, hidden):
    model = encoder()
    loss, count = masked_words(model, hidden)
    chances = model(hidden).heads["words"].log_softmax(-1)
    assert count == 2
    assert loss.item() == pytest.approx(-(chances[0, 1, 5] + chances[2, 3, 8]).item(), rel=1e-5)
    loss.backward()
    assert model.language.embedding.weight.grad.abs().sum() > 0
    assert not torch.isnan(loss)


def test_without_hidden_words_or_their_head_it_says_so(encoder, hidden):
    with pytest.raises(InputError, match="hides no words"):
        masked_words(encoder(), replace(hidden, labels=None))
    with pytest.raises(InputError, match="no head 'letters' but words, regions, matching"):
        masked_words(encoder(), hidden, head="letters")
