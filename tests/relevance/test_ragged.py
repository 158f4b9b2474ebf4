"""Images that differ in grid, each as if it were alone."""

import numpy as np
import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance import allocate, allocate_each

GRIDS = [(4, 6), (5, 5), (4, 6), (2, 3), (6, 4)]
SOME = [torch.randn(24, 3, generator=torch.Generator().manual_seed(0))]


def images(seed=0):
    chance = torch.Generator().manual_seed(seed)
    counts = [rows * columns for rows, columns in GRIDS]
    return [torch.randn(n, 3, generator=chance) for n in counts], [torch.rand(n, generator=chance) for n in counts]


@pytest.mark.parametrize("budgets", [5, 9, [7, 7, 4, 6, 24]])
@pytest.mark.parametrize("heard", [True, False])
def test_each_is_as_alone(budgets, heard):
    features, relevance = images()
    made = allocate_each(features, grids=GRIDS, budgets=budgets, relevance=relevance if heard else None, floor=2)
    for image, found in enumerate(made):
        budget = budgets if isinstance(budgets, int) else budgets[image]
        weight = relevance[image] if heard else None
        alone = allocate(features[image], grid=GRIDS[image], budget=budget, relevance=weight, floor=2)
        for name, part in vars(alone).items():
            assert getattr(found, name) == part if name == "note" else torch.equal(getattr(found, name), part)


def test_images_that_are_alike_go_together(monkeypatch):
    calls = []

    def counted(features, **rest):
        calls.append(len(features))
        return allocate(features, **rest)

    monkeypatch.setattr("foveal.relevance.ragged.allocate", counted)
    allocate_each(images()[0], grids=GRIDS, budgets=5)
    assert calls == [2, 1, 1, 1]


def test_gradients_reach_every_image():
    features, _ = images()
    for one in features:
        one.requires_grad_()
    sum(made.features.square().sum() for made in allocate_each(features, grids=GRIDS, budgets=4)).backward()
    assert all(one.grad.abs().min() > 0 for one in features)


def test_none_are_none():
    assert allocate_each([], grids=[], budgets=4) == []


@pytest.mark.parametrize("make", [tuple, np.array, torch.tensor])
def test_budgets_may_be_an_array(make):
    made = allocate_each([SOME[0]] * 2, grids=[(4, 6)] * 2, budgets=make([3, 5]))
    assert [len(one.features) for one in made] == [3, 5]
    with pytest.raises(InputError, match="1 budgets for 2 images"):
        allocate_each([SOME[0]] * 2, grids=[(4, 6)] * 2, budgets=make([3]))


def test_of_images_that_go_together_only_the_wrong_one_is_named():
    with pytest.raises(InputError, match="of images 1: features hold"):
        allocate_each([SOME[0], SOME[0] * torch.nan, SOME[0]], grids=[(4, 6)] * 3, budgets=3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"grids": []}, "0 grids for 1 images; give each image one"),
        ({"budgets": [3, 4]}, "2 budgets for 1 images"),
        ({"relevance": []}, "0 maps of relevance for 1 images"),
        ({"budgets": 0}, "of images 0: a budget of 0 tokens"),
        ({"grids": [(5, 5)]}, "of images 0: features of shape"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        allocate_each(**{"features": SOME, "grids": [(4, 6)], "budgets": 3, **wrong})


def test_an_image_that_is_several_is_named():
    with pytest.raises(InputError, match=r"features of shape \(2, 24, 3\) for image 1; give \[N D\], an image each"):
        allocate_each([SOME[0], torch.stack(SOME * 2)], grids=[(4, 6)] * 2, budgets=3)
