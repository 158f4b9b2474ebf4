"""A Q-Former's first stage, handed to the connector of the second."""

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from tests.models.test_two_tower import LANGUAGE, VIT, batch, config

QFORMER = {"name": "qformer", "queries": 3, "width": 8, "depth": 2, "heads": 2, "places": 2}
DECODER = {"name": "decoder", "vocabulary": 20, "width": 12, "depth": 1, "heads": 2}
TALKS = {"vision": VIT, "connector": QFORMER, "language": DECODER, "head": {"name": "language_model", "tied": True}}


@pytest.fixture
def first(tmp_path):
    """The directory of a first stage's run."""
    torch.manual_seed(0)
    return foveal.build(config()).save(tmp_path / "first")


def test_the_queries_see_what_they_saw_and_the_map_is_fresh(first):
    torch.manual_seed(1)
    run, before = foveal.build({"model": TALKS, "init": {"connector": str(first)}}), foveal.load(first).model
    torch.manual_seed(1)
    fresh = foveal.build(TALKS).model.connector
    connector, given = run.model.connector.eval(), batch()
    pairs = before.pairs(given)
    visual = before.look(given)
    seen, _ = before.language(pairs.seen, pairs.ids, pairs.valid, sees="own")
    torch.testing.assert_close(connector.look(visual), seen, atol=1e-6, rtol=1e-5)
    assert torch.equal(connector.map.weight, fresh.map.weight)
    assert not any("text_feed" in name or "words" in name for name in connector.state_dict())


def test_a_run_of_the_second_stage_hands_on_its_map_too(first, tmp_path):
    made = foveal.build({"model": TALKS, "init": {"connector": str(first)}})
    again = foveal.build({"model": TALKS, "init": {"connector": str(made.save(tmp_path / "second"))}})
    for name, weight in made.model.connector.state_dict().items():
        assert torch.equal(weight, again.model.connector.state_dict()[name])


@pytest.mark.parametrize(
    ("connector", "said"),
    [
        (
            {**QFORMER, "queries": 4},
            "does not fit the recipe's connector: 0 weights absent, 1 of another name or shape",
        ),
        ({**QFORMER, "depth": 3}, "make their settings agree"),
        ("linear", "make their settings agree"),
    ],
)
def test_another_connector_is_refused(first, connector, said):
    with pytest.raises(InputError, match=said):
        foveal.build({"model": {**TALKS, "connector": connector}, "init": {"connector": str(first)}})


def test_a_directory_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no run of Foveal"):
        foveal.build({"model": TALKS, "init": {"connector": str(tmp_path)}})


def test_a_frozen_language_model_gets_no_gradient_and_hands_it_on(first):
    model = foveal.build({"model": TALKS, "init": {"connector": str(first)}}).model
    model.language.requires_grad_(False)
    slots = torch.tensor([[0, 1, 2, -1, -1]])
    ids = torch.tensor([[0, 0, 0, 5, 6]])
    valid = torch.ones_like(ids, dtype=torch.bool)
    given = Batch(
        input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=Pixels.whole(torch.randn(1, 3, 16, 16))
    )
    model(given).logits.logsumexp(-1).sum().backward()
    assert all(weight.grad is None for weight in model.language.parameters())
    assert all(weight.grad.abs().any() for weight in model.connector.parameters())
    assert LANGUAGE["queries"] == QFORMER["queries"]
