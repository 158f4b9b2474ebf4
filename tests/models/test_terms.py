"""A price, or a total that the images of a batch share, in place of a budget: laid out after it is known."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Pixels
from foveal.models import causal
from foveal.models.budget import budgeted, spent
from foveal.models.config import ModelConfig
from foveal.relevance.pricing import Terms
from tests.models.test_budget import PARTS, batch
from tests.models.test_gazes import model_of
from tests.models.test_tiles import CUTS, RASTER, batch_of
from tests.models.test_tiles import model_of as tiled_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return causal.assemble(ModelConfig.parse(PARTS)).eval()


def uneven(model):
    """Two pictures, of which the first is nearly plain."""
    given = batch(model)
    values = torch.stack([0.02 * given.visual.values[0], given.visual.values[1]])
    return replace(given, visual=Pixels.whole(values))


@torch.no_grad()
def test_a_total_is_spent_to_the_last_token_and_laid_out(model):
    for total in (2, 9, 20, 32, 99):
        view, anew = spent(model, uneven(model), Terms(total=total, least=1, most=16))
        counts = anew.seen.layout.counts
        assert sum(counts) == min(total, 32) and min(counts) >= 1
        assert (anew.image_slot >= 0).sum(1).tolist() == list(counts)
        assert torch.isfinite(view(anew).logits[anew.valid]).all()


@torch.no_grad()
def test_a_price_buys_more_where_it_is_lower_and_alone_as_in_a_batch(model):
    given, sums = uneven(model), []
    for price in (1e-4, 0.02, 0.05, 0.2, 1.0):
        terms = Terms(price=price, least=2, most=12)
        view, anew = spent(model, given, terms)
        counts = anew.seen.layout.counts
        sums.append(sum(counts))
        assert all(2 <= count <= 12 for count in counts)
        logits = view(anew).logits
        for row in range(2):
            one = replace(
                given, owner=torch.zeros(1, dtype=torch.long), image_slot=given.image_slot[:1],
                **{name: getattr(given, name)[row : row + 1] for name in ("input_ids", "valid", "prompt")},
                visual=Pixels.whole(given.visual.values[row : row + 1]),
            )  # fmt: skip
            alone = view.spent(one, budget=terms)
            assert alone.seen.layout.counts == counts[row : row + 1]
            length = int(alone.valid.sum())
            torch.testing.assert_close(view(alone).logits[0], logits[row, :length], atol=1e-5, rtol=1e-5)
    assert sums == sorted(sums, reverse=True) and sums[0] == 24 and sums[-1] == 4 and len(set(sums)) > 2


@torch.no_grad()
def test_equal_counts_are_those_of_a_budget_and_all_tokens_are_the_model_itself(model):
    given = uneven(model)
    same = spent(model, given, Terms(price=9.0, least=5, most=9))[1].seen
    torch.testing.assert_close(same.features, spent(model, given, 5)[1].seen.features)
    view, anew = spent(model, given, Terms(price=1e-9, least=1, most=99))
    assert torch.equal(view(anew).logits, model(given).logits)


@torch.no_grad()
def test_no_answer_is_heard(model):
    terms = Terms(price=0.05, least=1, most=16)
    one, other = (spent(model, batch(model, answer=answer), terms)[1].seen for answer in (3, 9))
    assert one.layout == other.layout and torch.equal(one.features, other.features)


def test_what_is_bought_learns(model):
    given = batch(model)
    view = budgeted(model, 4)
    given = replace(given, labels=torch.where(given.prompt, IGNORE, given.input_ids))
    anew = view.spent(given, budget=Terms(total=9))
    out = view(anew, keep="labelled")
    torch.nn.functional.cross_entropy(out.logits, out.labels).backward()
    assert view.allocator.balancer.weigh.weight.grad.abs().sum() > 0 and model.connector.map.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_images_in_tiles_are_priced_on_their_fine_grid():
    tiled = tiled_model("mlp", RASTER)
    given = batch_of(tiled)
    view, anew = spent(tiled, given, Terms(total=20, least=2), cover=1.0)
    counts = anew.seen.layout.counts
    assert sum(counts) == 20 and len(counts) == len(CUTS) and min(counts) >= 2
    assert (anew.image_slot >= 0).sum().item() == 20 and torch.isfinite(view(anew).logits).all()


def test_what_cannot_be_priced_is_refused_in_a_line(model):
    terms = Terms(price=0.1)
    with pytest.raises(InputError, match="strategy 'random' tells no token's gain"):
        spent(model, batch(model), terms, "random")
    latents = model_of()
    with pytest.raises(
        InputError, match="a price or a total is spent on a grid, and the 8 queries of connector Qformer"
    ):
        spent(latents, batch(model), terms)
    with pytest.raises(InputError, match="a total of 3 visual tokens for 2 images of 2 or more"):
        spent(model, batch(model), Terms(total=3, least=2))
