from dataclasses import replace

import pytest
import torch

from foveal.core.types import Layout, VisualTokens
from foveal.training.objectives.masked_regions import masked_regions
from foveal.training.objectives.masked_words import masked_words
from foveal.training.objectives.matching import matching
from foveal.training.objectives.pretrain import pretrain


def test_it_is_the_weighted_sum_of_its_parts(encoder, hidden):
    model = encoder()
    loss, count, parts = pretrain(model, hidden, words=2.0, regions=0.5, matching=3.0)
    assert count == 2.0 * 2 + 0.5 * 3 + 3.0 * 4
    weighted = sum(
        weight * parts[name][0].item() for name, weight in (("words", 2.0), ("regions", 0.5), ("matching", 3.0))
    )
    assert loss.item() == pytest.approx(weighted, rel=1e-5)
    assert parts["regions"][0].item() == pytest.approx(masked_regions(model, hidden)[0].item(), rel=1e-5)
    assert set(parts) == {"words", "regions", "prior_regions", "matching", "accuracy_matching"}


def test_a_part_of_weight_nothing_is_left_out(encoder, hidden):
    model = encoder()
    loss, count, parts = pretrain(model, hidden, regions=0.0, matching=0.0)
    alone, number = masked_words(model, hidden)
    assert (loss.item(), count) == (pytest.approx(alone.item()), number)
    only, *_ = pretrain(model, replace(hidden, labels=None), words=0.0, regions=0.0)
    assert only.item() == pytest.approx(matching(model, hidden)[0].item())
    assert set(parts) == {"words"}


def test_without_images_the_words_are_left(encoder, hidden):
    words = replace(hidden, visual=None, image_slot=hidden.image_slot.clamp(max=-1))
    assert set(pretrain(encoder(), words, matching=0.0)[2]) == {"words"}
    none = VisualTokens.on_layout(torch.zeros(0, 1), Layout(counts=(), grids=()))
    told = pretrain(encoder(), replace(words, visual=none, owner=words.owner[:0]), matching=0.0)
    assert set(told[2]) == {"words"}
