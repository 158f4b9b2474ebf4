from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.training.objectives.contrastive import compare, contrastive, embed, fingerprint
from foveal.training.processes import accelerator
from foveal.training.step import Scored, backward


@pytest.fixture
def model():
    torch.manual_seed(0)
    language = {"name": "multiway", "vocabulary": 9, "width": 8, "depth": 2, "heads": 2}
    parts = {"assembly": "masked", "fusion": {"name": "prefix", "positions": 3}, "features": 6, "language": language}
    return assemble(ModelConfig.parse({**parts, "heads": {"pair": "contrastive"}}))


@pytest.fixture
def pairs():
    """Four rows: two regions, three words (the last is padding in row 1)."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 9, (4, 5), generator=chance)
    slots = torch.full((4, 5), -1)
    slots[:, :2] = torch.arange(8).view(4, 2)
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, -1] = False
    features = torch.randn(8, 6, generator=chance)
    visual = VisualTokens.on_layout(features, Layout(counts=(2,) * 4, grids=(None,) * 4))
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=visual)


def part(batch, rows):
    """Some rows of the batch by themselves."""
    tokens = torch.cat([torch.arange(2 * row, 2 * row + 2) for row in rows])
    visual = VisualTokens.on_layout(
        batch.visual.features[tokens], Layout(counts=(2,) * len(rows), grids=(None,) * len(rows))
    )
    slots = batch.image_slot[rows].clone()
    slots[:, :2] = torch.arange(2 * len(rows)).view(-1, 2)
    given = {name: getattr(batch, name)[rows] for name in ("input_ids", "valid", "prompt")}
    return replace(batch, **given, image_slot=slots, visual=visual)


def test_neither_tower_sees_the_other(model, pairs):
    vectors, _ = embed(model, pairs)
    other = replace(pairs, visual=pairs.visual.with_features(-pairs.visual.features))
    changed, _ = embed(model, other)
    assert torch.equal(vectors[:, 1], changed[:, 1]) and not torch.allclose(vectors[:, 0], changed[:, 0], atol=1e-3)
    words, _ = embed(model, replace(pairs, input_ids=pairs.input_ids.flip(1)))
    assert torch.equal(vectors[:, 0], words[:, 0]) and not torch.allclose(vectors[:, 1], words[:, 1], atol=1e-3)


def test_it_is_the_mean_of_both_directions(model, pairs):
    loss, count, parts = contrastive(model, pairs)
    vectors, _ = embed(model, pairs)
    logits, right = vectors[:, 0] @ vectors[:, 1].T, torch.arange(4)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert count == 4 and loss.item() / count == pytest.approx(expected.item(), rel=1e-5)
    assert 0 <= parts["accuracy_pairs"][0] <= 4
    loss.backward()
    assert model.heads["pair"].scale.grad.abs() > 0


def test_rows_with_the_same_image_or_text_are_no_wrong_choice():
    vectors = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    alone, _, _ = compare(vectors[[0, 2]], torch.tensor([[0, 5], [2, 7]]))
    same_image, _, _ = compare(vectors[[0, 0, 2]], torch.tensor([[0, 5], [0, 6], [2, 7]]))
    different, _, _ = compare(vectors[[0, 0, 2]], torch.tensor([[0, 5], [1, 6], [2, 7]]))
    assert alone.item() < same_image.item() < different.item()


def test_equal_texts_have_one_fingerprint_wherever_they_stand():
    ids = torch.tensor([[0, 3, 4], [3, 4, 0], [4, 3, 0]])
    left, right, other = fingerprint(ids, ids > 0).tolist()
    assert left == right != other


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_parts_is_the_whole_batch(model, pairs, precision):
    scored = Scored(model, partial(contrastive, head="pair"), precision=precision)
    gradients = []
    for batches in ([pairs], [part(pairs, [0, 1]), part(pairs, [2]), part(pairs, [3])]):
        sums = backward(accelerator("cpu"), scored, batches)
        loss, count, parts = sums.loss, sums.count, sums.parts
        assert int(count) == 4 and set(parts) == {"pairs", "accuracy_pairs"}
        parts = (weight.grad.flatten() for weight in model.parameters() if weight.grad is not None)
        gradients.append(torch.cat([loss[None], *parts]))
        model.zero_grad()
    whole, split = gradients
    assert (whole - split).norm() <= (1e-5 if precision == "fp32" else 0.005) * whole.norm()
    torch.testing.assert_close(whole[0], split[0], atol=1e-5, rtol=1e-6)


def test_autocast_compares_as_a_step_in_parts_does_without():
    chance = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(8, 2, 16, generator=chance), dim=-1) * 4
    keys = torch.arange(8)[:, None].expand(-1, 2)
    plain, _, _ = compare(vectors, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compare(vectors, keys)[0], plain)


def test_a_row_without_an_image_is_refused(model, pairs):
    with pytest.raises(InputError, match="compares pairs"):
        contrastive(model, replace(pairs, image_slot=torch.full_like(pairs.image_slot, -1)))
