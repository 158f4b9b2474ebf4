"""Contrast, writing and matching on one set of weights."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.training.objectives import contrastive
from foveal.training.objectives.next_token import next_token
from foveal.training.objectives.queries import Config, foreign, queries
from foveal.training.processes import accelerator
from foveal.training.step import Scored, backward
from tests.models.test_two_tower import batch, model, unmoved


def test_it_is_the_weighted_sum_of_three_losses():
    made, given = model(), batch()
    torch.manual_seed(1)
    loss, count, parts = queries(made, given, words=0.5, matching=2.0)
    assert set(parts) == {"pairs", "accuracy_pairs", "words", "matching", "accuracy_matching"}
    assert (parts["pairs"][1], parts["words"][1], parts["matching"][1]) == (3, 9, 9)
    assert count == 3 + 0.5 * 9 + 2.0 * 9
    weighted = parts["pairs"][0] + 0.5 * parts["words"][0] + 2.0 * parts["matching"][0]
    torch.testing.assert_close(loss, weighted)
    torch.testing.assert_close(parts["words"][0], next_token(made, given)[0])
    loss.backward()
    assert unmoved(made) == []


def test_contrast_takes_the_best_query_of_each_image():
    made, given = model(), batch()
    loss, count, parts = queries(made, given, words=0.0, matching=0.0)
    vectors = made(given, at={"pair": None}).heads["pair"]
    logits = torch.stack([(vectors[:, i, None] * vectors[None, :, -1]).sum(-1) for i in range(3)]).amax(0)
    right = torch.arange(3)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert count == 3 and set(parts) == {"pairs", "accuracy_pairs"}
    torch.testing.assert_close(loss / 3, expected)


def test_of_one_vector_an_image_it_is_the_contrast_there_was():
    chance = torch.Generator().manual_seed(0)
    vectors, keys = torch.randn(4, 2, 5, generator=chance), torch.arange(8).view(4, 2)
    torch.testing.assert_close(contrastive.likeness(vectors, keys), vectors[:, 0] @ vectors[:, 1].T)


@pytest.mark.parametrize("words", [0.0, 0.7])
def test_a_step_in_parts_is_the_whole_batch(words):
    made, given = model(), batch()
    scored = Scored(made, partial(queries, words=words, matching=0.0), precision="fp32")
    gradients = []
    for batches in ([given], [batch(rows=(0, 1)), batch(rows=(2,))]):
        sums = backward(accelerator("cpu"), scored, batches)
        loss, count, parts = sums.loss, sums.count, sums.parts
        assert float(count) == pytest.approx(3 + 9 * words)
        assert int(parts["pairs"][1]) == 3 and ("words" not in parts or int(parts["words"][1]) == 9)
        told = (weight.grad.flatten() for weight in made.parameters() if weight.grad is not None)
        gradients.append(torch.cat([loss[None], *told]))
        made.zero_grad()
    whole, split = gradients
    assert (whole - split).norm() <= 1e-5 * whole.norm()


def test_matching_in_parts_draws_from_each_by_itself():
    made, given = model(), batch(rows=(0, 1, 2))
    scored = Scored(made, partial(queries, words=0.1, matching=1.0), precision="fp32")
    parts = backward(accelerator("cpu"), scored, [given, batch(rows=(1, 2))]).parts
    assert int(parts["matching"][1]) == 15 and int(parts["pairs"][1]) == 5


def test_a_share_of_the_rows_is_matched():
    *_, parts = queries(model(), batch(), share=0.4)
    assert parts["matching"][1] == 3 and parts["pairs"][1] == 3
    with pytest.raises(InputError, match="share is 0"):
        Config(share=0.0)


def test_what_fits_better_is_drawn_more_often_and_never_the_own():
    torch.manual_seed(0)
    logits = torch.tensor([[9.0, 2.0, 0.0], [0.0, 9.0, 0.0], [0.0, -torch.inf, 0.0]])
    drawn = torch.stack([foreign(logits) for _ in range(400)])
    assert set(drawn[:, 0].tolist()) == {1, 2} and (drawn[:, 0] == 1).double().mean() == pytest.approx(0.88, abs=0.05)
    assert set(drawn[:, 1].tolist()) == {0, 2} and set(drawn[:, 2].tolist()) == {0}


def test_matching_learns_which_belong():
    made, given = model(), batch()
    same = Pixels.whole(given.visual.values[[0, 0, 0]])
    told = [made.match(made.pairs(replace(given, visual=visual)))[0] for visual in (given.visual, same)]
    torch.testing.assert_close(*told)
    adam = torch.optim.Adam(made.parameters(), lr=3e-3)
    torch.manual_seed(0)
    right = []
    for _ in range(150):
        loss, count, parts = queries(made, given)
        adam.zero_grad()
        (loss / count).backward()
        adam.step()
        right.append(float(parts["accuracy_matching"][0]) / 9)
    assert sum(right[-10:]) / 10 > 0.95 > max(right[:3]) and float(parts["accuracy_pairs"][0]) == 3


def test_a_batch_without_anything_foreign_is_refused():
    with pytest.raises(InputError, match="a batch of 1 rows holds nothing foreign"):
        queries(model(), batch(rows=(0,)))
    assert queries(model(), batch(rows=(0,)), matching=0.0)[1] == pytest.approx(1 + 0.1 * 2)
