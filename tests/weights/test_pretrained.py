"""A Q-Former's first stage, handed to the connector of the second."""

import pytest
import torch

import foveal
from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.weights.pretrained import queries, vision_parts
from tests.models.test_two_tower import LANGUAGE, VIT, batch, config
from tests.tiny import tiny_run
from tests.weights import test_blip2_pairs as pairs
from tests.weights import test_lavis as lavis
from tests.weights.test_lavis_pairs import bert_writer, theirs_of

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


def test_a_language_of_other_words_says_so(tmp_path):
    run = tiny_run(["one two three four"])
    run.save(tmp_path / "known")
    model = run.model.config.dump()
    words = model["language"]["vocabulary"]
    model["language"]["vocabulary"] = words - 2
    told = f"known' has {words} words, the recipe's language {words - 2}; take its own with processor.tokenizer=.*known"
    with pytest.raises(InputError, match=told):
        foveal.build({"model": model, "init": {"language": str(tmp_path / "known")}})
    model["language"]["width"] *= 2
    with pytest.raises(InputError, match="make their settings agree"):
        foveal.build({"model": model, "init": {"language": str(tmp_path / "known")}})


@pytest.mark.parametrize("origin", ["transformers", "lavis"])
def test_a_first_stage_of_another_origin_hands_on_its_queries(tmp_path, origin):
    theirs = pairs.reference(seed=3)
    if origin == "transformers":
        theirs.save_pretrained(tmp_path)
    else:
        theirs = lavis.as_lavis(theirs)
        config = {"model_type": "blip2", "num_query_token": pairs.QUERIES, "vision_heads": 4, "heads": 4}
        lavis.write(tmp_path, config, theirs_of(theirs, bert_writer()))
    loaded = foveal.load(tmp_path).model
    stack = loaded.config.language.settings
    sizes = {name: getattr(stack, name) for name in ("width", "depth", "heads", "inner", "frequency", "eps")}
    described = {"name": "qformer", "queries": pairs.QUERIES, **sizes}
    vision = {"name": loaded.config.vision.name, **dump(loaded.config.vision.settings)}
    model = {**TALKS, "vision": vision, "connector": described}
    made = foveal.build({"model": model, "init": {"connector": str(tmp_path)}}).model.connector.state_dict()
    known = queries(loaded.state_dict())
    assert known and all(torch.equal(made[name.removeprefix("connector.")], weight) for name, weight in known.items())
    assert {name for name in made if f"connector.{name}" not in known} == {"map.weight", "map.bias"}


def test_a_reference_model_hands_on_its_projector(tmp_path):
    import transformers as hf

    sight = hf.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    words = hf.LlamaConfig(
        vocab_size=20, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    theirs = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=sight, text_config=words))
    theirs.save_pretrained(tmp_path)
    model = {**TALKS, "vision": {**VIT, "width": 8}, "connector": {"name": "mlp", "depth": 2}}
    made = foveal.build({"model": model, "init": {"connector": str(tmp_path)}}).model.connector
    assert torch.equal(made.maps[0].weight, theirs.model.multi_modal_projector.linear_1.weight)
    with pytest.raises(InputError, match=r"holds a 'llama', which is no connector part"):
        theirs.model.language_model.save_pretrained(tmp_path / "words")
        foveal.build({"model": model, "init": {"connector": str(tmp_path / "words")}})


def test_a_directory_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        foveal.build({"model": TALKS, "init": {"connector": str(tmp_path)}})


def test_weights_alone_are_told_from_an_encoder():
    with pytest.raises(InputError, match=r"imagenet is weights for the recipe's own vision; give init.vision=imagenet"):
        vision_parts("imagenet")
    with pytest.raises(InputError, match="did you mean 'starter'") as told:
        vision_parts("startr")
    assert "imagenet" not in str(told.value)


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
