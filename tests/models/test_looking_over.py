"""A run gets blocks over its encoder, answers as before, and strategies that choose by attention then do."""

import pytest
import torch
from PIL import Image

import foveal
from foveal.cli._model import model_of
from foveal.cli._recipe import read
from foveal.core.errors import InputError
from foveal.models.budget import budgeted
from foveal.models.looking_over import look_over

OVER = {"name": "hybrid_vit", "depth": 1, "inner": 32}


@torch.no_grad()
def test_the_starter_with_blocks_over_it_is_the_starter_and_attends(tmp_path):
    starter, run = foveal.load("starter"), foveal.load("starter")
    look_over(run.model, OVER)
    run.external.pop("vision")
    again = foveal.load(run.save(tmp_path / "run"))
    image = Image.effect_noise((256, 256), 90).convert("RGB")
    for made in (run, again):
        wanted = starter.model.vision(starter.processor.pixels([image])).features
        assert torch.equal(made.model.eval().vision(made.processor.pixels([image])).features, wanted)
    assert again.model.config.vision.settings.stem["variant"] == 2
    with pytest.raises(InputError, match="needs the encoder's attention"):
        budgeted(starter.model, 9, "visionzip")
    answer = again.answer([image], "Where is the fox?", budget=9, strategy="visionzip")
    assert answer.visual_tokens == 9 and answer.text


@pytest.mark.parametrize("given", ["vit", {"name": "hybrid_vit", "stem": "vit"}])
def test_other_encoders_over_a_run_are_refused(given):
    with pytest.raises(InputError, match="over a run; give hybrid_vit"):
        look_over(foveal.load("starter").model, given)


def test_the_recipe_makes_a_run_that_keeps_its_own_encoder(tmp_path):
    made = model_of(read("attentive"), [])
    again = foveal.load(made.save(tmp_path / "run"))
    assert again.model.config.vision.name == "hybrid_vit" and len(again.model.vision.look.blocks) == 2
    wanted = made.model.state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in again.model.state_dict().items())
    with pytest.raises(InputError, match="over a run; give hybrid_vit"):
        model_of(read("attentive", ["model.vision=vit"]), [])


@pytest.mark.parametrize("allocator", [{"name": "visionzip", "budget": 9}, {"name": "foveal", "salience": "attention"}])
def test_who_spends_by_attention_may_be_given_with_the_blocks_that_have_it(allocator):
    spender = model_of(read("attentive", [f"model.allocator={allocator}"]), []).model.allocator
    assert spender.needs == ("attention",)


def test_what_is_added_to_a_run_is_drawn_from_the_seed():
    one, same, other = (model_of(read("attentive", [f"seed={seed}"]), []).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    fresh = [name for name in one if not torch.equal(one[name], other[name])]
    assert fresh and all(name.startswith("vision.look.") for name in fresh)
