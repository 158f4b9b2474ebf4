from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foveal.core.errors import InputError
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.training.objectives.masked_regions import constant, masked_regions, places
from foveal.training.objectives.pretrain import pretrain

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


def multiway():
    """A tiny BEiT-3 that tells one of four codes."""
    torch.manual_seed(0)
    language = {"name": "multiway", "vocabulary": 9, "width": 8, "depth": 2, "heads": 2}
    fusion = {"name": "prefix", "positions": 3, "mask": True}
    heads = {"words": "masked_language", "regions": {"name": "region_prediction", "labels": 4}}
    parts = {"assembly": "masked", "fusion": fusion, "features": 6, "language": language, "heads": heads}
    return assemble(ModelConfig.parse(parts))


def test_a_mask_token_stands_for_what_is_hidden_and_codes_are_told(hidden):
    model, codes = multiway(), torch.arange(12) % 4
    batch = replace(hidden, targets={**hidden.targets, "classes": F.one_hot(codes, 4).bool()})
    loss, _, _ = masked_regions(model, batch, target="classes")
    given = _blinded(model, batch)
    told = model(given).heads["regions"][places(batch)]
    assert loss.item() == pytest.approx(F.cross_entropy(told, codes[list(SHOWN)], reduction="sum").item(), rel=1e-5)
    assert torch.equal(given.visual.masked, hidden.targets["regions"])
    other = given.visual.features.clone()
    other[given.visual.masked] = 9.0
    again = model(replace(given, visual=given.visual.with_features(other))).heads["regions"][places(batch)]
    assert torch.equal(told, again)


def test_words_and_patches_are_masked_by_one_rule_and_everything_learns(hidden):
    model = multiway()
    batch = replace(hidden, targets={**hidden.targets, "classes": F.one_hot(torch.arange(12) % 4, 4)})
    loss, count, parts = pretrain(model, batch, matching=0.0, target="classes")
    assert count == 2 + 3 and {"words", "regions"} <= set(parts)
    loss.backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


def test_what_does_not_fit_is_told(encoder, hidden):
    with pytest.raises(InputError, match="without classes"):
        masked_regions(encoder(), hidden, target="classes")
    with pytest.raises(InputError, match="6 numbers of a region and the target 'classes' has 4"):
        masked_regions(encoder(), with_classes(hidden)[0], target="classes")
    with pytest.raises(InputError, match="hides no regions"):
        masked_regions(encoder(), replace(hidden, targets={}))
    with pytest.raises(InputError, match="no images"):
        masked_regions(encoder(), replace(hidden, visual=None))
