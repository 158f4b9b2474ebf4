"""Where images lie in the text: which tokens are of one, whatever stands on the embeddings or was done to features."""

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from tests.interop import tiny

BUDGET = 6


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm", "internvl", "llava"])
def test_noise_on_the_embeddings_parts_images_as_ever(kind):
    model = foveal.compress(tiny.model(kind).train(), budget=BUDGET)
    given = tiny.prompt(model, [[0, 1], [2]], seed=2)
    model(**given)
    expected = model.foveal.last.before
    noise = lambda module, given, made: made + 0.01 * torch.rand_like(made)  # noqa: E731  as NEFTune has it
    model.get_input_embeddings().register_forward_hook(noise)
    model(**given)
    assert model.foveal.last.before == expected and model.foveal.last.after == (BUDGET,) * 3


def test_an_image_at_the_first_column_is_one():
    model = foveal.compress(tiny.model("internvl"), budget=4)
    ids = torch.tensor([[tiny.IMAGE] * 9 + [tiny.END, 5] + [tiny.IMAGE] * 18 + [7, 8, 6]])
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    assert model.foveal.last.before == (9, 18) and model.foveal.last.after == (4, 4)


def found(model, given):
    """What the encoder finds, and the prompt without its pixels."""
    names = ("pixel_values", "image_grid_thw", "image_sizes")
    made = model.get_image_features(**{name: given[name] for name in names if name in given}, return_dict=True)
    return made, {name: part for name, part in given.items() if name != "pixel_values"}


@pytest.mark.parametrize("kind", [kind for kind in tiny.FAMILIES if not kind.startswith("llava_")])
def test_features_found_before_or_copied_are_cut_as_any(kind):
    model = tiny.model(kind)
    given = tiny.prompt(model, [[0, 1], [2]])
    made, rest = found(model, given)
    foveal.compress(model, budget=BUDGET)
    expected = model(**given).logits
    assert torch.equal(model(**rest, mm_encoder_outputs={"image": made}).logits, expected)
    made, _ = found(model, given)
    if not isinstance(made.pooler_output, torch.Tensor):
        made.pooler_output = [features.clone() for features in made.pooler_output]
    assert torch.equal(model(**rest, mm_encoder_outputs={"image": made}).logits, expected)


@pytest.mark.parametrize("kind", ["llava_next", "llava_onevision"])
def test_features_whose_grid_nothing_tells_are_refused_with_the_cause(kind):
    model = tiny.model(kind)
    given = tiny.prompt(model, [[0]])
    made, rest = found(model, given)
    foveal.compress(model, budget=BUDGET)
    with pytest.raises(InputError, match=r"features of image 0 came without their grid, .* or give pixel_values"):
        model(**rest, mm_encoder_outputs={"image": made})
    made, _ = found(model, given)
    assert torch.equal(model(**rest, mm_encoder_outputs={"image": made}).logits, model(**given).logits)
