"""One model for all budgets: a budget drawn for every batch, and a teacher with all tokens."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.models.budget import budgeted, unspent
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.training.config import Stage
from foveal.training.objectives.budgets import budgets
from foveal.training.objectives.choose import choose
from foveal.training.objectives.next_token import next_token


def early():
    """A model that chooses answers and has an allocator, and a batch of a picture of four tokens each."""
    torch.manual_seed(0)
    sizes = {"vocabulary": 20, "width": 16, "depth": 1, "heads": 2, "inner": 16, "context": 12}
    vit = {"name": "vit", "image_size": 32, "patch": 16, "width": 16, "depth": 1, "heads": 2, "inner": 24}
    parts = {
        "assembly": "masked",
        "vision": vit,
        "connector": "linear",
        "fusion": {"name": "single_stream", "places": 2},
    }
    heads = {"answer": {"name": "classification", "labels": 4}}
    described = {**parts, "allocator": {"name": "foveal", "budget": 4}, "heads": heads}
    model = assemble(ModelConfig.parse({**described, "language": {"name": "encoder", **sizes}}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)  # so that what is seen tells
    slots = torch.full((2, 7), -1)
    slots[:, 3:] = torch.arange(8).view(2, 4)
    ids = torch.randint(1, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    pixels = Pixels.whole(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    shown = {
        "image_slot": slots,
        "visual": pixels,
        "owner": torch.arange(2),
        "targets": {"answer": torch.tensor([1, 3])},
    }
    return model, Batch(input_ids=ids, valid=everywhere, prompt=everywhere, **shown)


@pytest.fixture
def spending(world):
    """A model with an allocator of its own, and a batch that is laid out for all four tokens of its pictures."""
    model = budgeted(world.model(), 4)
    return model, world.collate(unspent(model))(Stage(steps=1))([[example] for example in world.data[:4]])


def test_a_cover_for_who_reads_all_tiles_or_none_is_refused(spending):
    model, batch = spending
    with pytest.raises(InputError, match="a cover of 0; give a share above 0, or 1 for all tiles"):
        model.spent(batch, budget=2, cover=0.0)
    with pytest.raises(InputError, match=r"'grid' reads all tiles, and a cover of 0\.5 is set; leave it out"):
        budgeted(unspent(model), 4, "grid").spent(batch, budget=2, cover=0.5)


def test_the_loss_is_that_of_the_budget_that_was_drawn(spending):
    model, batch = spending
    loss, count, parts = budgets(model, batch, least=2, most=2, whole=0.0)
    left = model.spent(batch, model.tiled(batch), 2)
    assert (left.image_slot >= 0).sum() == 2 * 4
    expected = next_token(model, left)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-6) and count == expected[1]
    assert list(parts) == ["answers"]


def test_budgets_differ_from_batch_to_batch_and_are_the_same_from_one_random_state(spending):
    model, batch = spending
    drawn = []
    for seed in [0, 1, 2, 3, 4, 5, 0]:
        torch.manual_seed(seed)
        drawn.append(budgets(model, batch, least=1, most=3, whole=0.0)[0].item())
    assert drawn[0] == drawn[-1] and len(set(drawn)) > 1


def test_a_share_of_the_batches_is_whole(spending):
    model, batch = spending
    loss, *_ = budgets(model, batch, least=1, most=1, whole=1.0)
    assert loss.item() == pytest.approx(next_token(unspent(model), batch)[0].item(), rel=1e-6)


def test_a_teacher_adds_what_all_tokens_say_otherwise_and_does_not_move(spending):
    model, batch = spending
    loss, count, parts = budgets(model, batch, least=1, most=1, whole=0.0, teacher=0.5)
    apart, of = parts["teacher"]
    assert of == count and apart > 0
    assert loss.item() == pytest.approx((parts["answers"][0] + 0.5 * apart).item(), rel=1e-6)
    alone, *_ = budgets(model, batch, least=4, most=4, whole=0.0, teacher=1.0)
    assert alone.item() == pytest.approx(next_token(unspent(model), batch)[0].item(), rel=1e-5)


def test_the_teacher_gets_no_gradient(spending):
    model, batch = spending
    weight = model.connector.map.weight
    budgets(model, batch, least=1, most=1, whole=0.0, teacher=2.0)[0].backward()
    found, weight.grad = weight.grad.clone(), None
    tiled = model.tiled(batch)
    with torch.no_grad():
        sure = unspent(model)(batch, keep="labelled").logits.log_softmax(-1)
    said = model(model.spent(batch, tiled, 1), keep="labelled")
    apart = torch.nn.functional.kl_div(said.logits.log_softmax(-1), sure, reduction="sum", log_target=True)
    (torch.nn.functional.cross_entropy(said.logits, said.labels, reduction="sum") + 2 * apart).backward()
    torch.testing.assert_close(found, weight.grad)


def test_every_weight_learns_at_once_the_balancer_too(spending):
    model, batch = spending
    model.train()
    budgets(model, batch, least=1, most=1, whole=0.0, teacher=0.5)[0].backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in model.allocator.parameters())
    assert model.connector.map.weight.grad.abs().sum() > 0


def test_a_model_that_keeps_all_is_refused(world):
    model = world.model()
    batch = world.collate(model)(Stage(steps=1))([[world.data[0]]])
    with pytest.raises(InputError, match=r"model\.allocator"):
        budgets(model, batch, least=1, most=1, whole=0.0)


@pytest.mark.parametrize("strategy", ["downsample", "fastv"])
def test_strategies_with_other_seats_are_refused(world, strategy):
    model = budgeted(world.model(depth=3, rope={"base": 1e4}), 2, strategy)
    batch = world.collate(unspent(model))(Stage(steps=1))([[world.data[0]]])
    with pytest.raises(InputError, match=f"'{strategy}' does not act behind the connector"):
        budgets(model, batch, least=1, most=1, whole=0.0)


def test_an_answer_is_chosen_under_a_budget_too():
    model, batch = early()
    loss, count, parts = budgets(model, batch, least=2, most=2, whole=0.0, teacher=1.0, of="choose")
    tiled = model.tiled(batch)
    left = model.spent(batch, tiled, 2)
    assert (left.image_slot >= 0).sum() == 2 * 2 and (batch.image_slot >= 0).sum() == 2 * 4
    expected, of = choose(model, left)
    apart, _ = parts["teacher"]
    assert count == of == 2 and apart > 0
    assert loss.item() == pytest.approx((expected + apart).item(), rel=1e-6)
    whole, *_ = budgets(model, batch, least=2, most=2, whole=1.0, of="choose")
    assert whole.item() == pytest.approx(choose(unspent(model), batch)[0].item(), rel=1e-6)
