from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foveal.core.errors import InputError
from foveal.training.objectives.masked_regions import constant, masked_regions, places

SHOWN = (0, 1, 7)  # the hidden regions beside a text that belongs


def with_classes(batch, count=4):
    chance = torch.Generator().manual_seed(3)
    classes = torch.randn(12, count, generator=chance).softmax(-1)
    return replace(batch, visual=replace(batch.visual, classes=classes)), classes


def test_it_is_the_error_of_the_features_told_without_seeing_them(encoder, hidden):
    model = encoder()
    loss, count, parts = masked_regions(model, hidden)
    blind = replace(hidden.visual, features=hidden.visual.features * ~hidden.targets["regions"][:, None])
    told = model(replace(hidden, visual=blind)).heads["regions"][places(hidden)]
    right = F.layer_norm(hidden.visual.features, (6,))
    assert count == 3 and told.shape == (3, 6)
    assert loss.item() == pytest.approx((told - right[list(SHOWN)]).square().mean(-1).sum().item(), rel=1e-5)
    prior = (right[list(SHOWN)] - right.mean(0)).square().mean(-1).sum()
    assert parts["prior_regions"][0].item() == pytest.approx(prior.item(), rel=1e-5)


def test_what_is_hidden_cannot_be_seen(encoder, hidden):
    model = encoder()
    other = hidden.visual.features.clone()
    other[hidden.targets["regions"]] = 9.0
    changed = replace(hidden, visual=hidden.visual.with_features(other))
    with torch.no_grad():
        told = [model(_blinded(model, batch)).logits for batch in (hidden, changed)]
    assert torch.equal(*told)


def _blinded(model, batch):
    from foveal.training.objectives.masked_regions import hidden as blinded

    return blinded(model, batch)[0]


def test_classes_are_told_as_a_distribution(encoder, hidden):
    batch, classes = with_classes(hidden)
    model = encoder(regions={"labels": 4})
    loss, count, parts = masked_regions(model, batch, target="classes")
    told = model(_blinded(model, batch)).heads["regions"][places(batch)].log_softmax(-1)
    right = classes[list(SHOWN)]
    assert loss.item() == pytest.approx((right * (right.log() - told)).sum().item(), rel=1e-4)
    frequencies = classes.mean(0)
    torch.testing.assert_close(constant(classes, "classes").exp(), frequencies)
    prior = (right * (right.log() - frequencies.log())).sum()
    assert parts["prior_regions"][0].item() == pytest.approx(prior.item(), rel=1e-4)
    assert count == 3


def test_what_does_not_fit_is_told(encoder, hidden):
    with pytest.raises(InputError, match="without classes"):
        masked_regions(encoder(), hidden, target="classes")
    with pytest.raises(InputError, match="6 numbers of a region and the target 'classes' has 4"):
        masked_regions(encoder(), with_classes(hidden)[0], target="classes")
    with pytest.raises(InputError, match="hides no regions"):
        masked_regions(encoder(), replace(hidden, targets={}))
    with pytest.raises(InputError, match="no images"):
        masked_regions(encoder(), replace(hidden, visual=None))
