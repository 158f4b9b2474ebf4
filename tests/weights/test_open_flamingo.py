"""OpenFlamingo: known answers, its three names of every weight, and the errors that its arguments deserve."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
MARK = 99


@pytest.fixture
def checkpoint(tmp_path):
    def write(known, *, config=None, state=None):
        (tmp_path / "config.json").write_text(json.dumps(config or known.config))
        state = known.weights if state is None else state
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


@pytest.fixture
def known(known_answers):
    return known_answers("flamingo_lm")


def asked(known):
    return {"lang_x": known.inputs["input_ids"], "vision_x": known.inputs["vision_tokens"]}


@pytest.mark.parametrize("told", [None, "open_flamingo"])
def test_known_answers(known, checkpoint, told):
    model = load(checkpoint(known), format=told)
    with torch.no_grad():
        output = model(**asked(known))
    torch.testing.assert_close(output.logits, known.outputs["logits"], **TOLERANCE)
    latents = known.outputs["latents"]
    torch.testing.assert_close(output.image_hidden_states.view_as(latents), latents, **TOLERANCE)


def test_each_weight_under_all_its_names(known, checkpoint, tmp_path):
    aliases = {alias: known.weights[name] for alias, name in known.meta["meta"]["aliases"].items()}
    assert len(aliases) > 20
    with_all = load(checkpoint(known, state={**known.weights, **aliases}))
    torch.testing.assert_close(with_all(**asked(known)).logits, known.outputs["logits"], **TOLERANCE)
    hidden = {
        name: weight for name, weight in known.weights.items() if name not in known.meta["meta"]["aliases"].values()
    }
    others = load(checkpoint(known, state={**hidden, **aliases}))
    torch.testing.assert_close(others(**asked(known)).logits, known.outputs["logits"], **TOLERANCE)


def test_two_names_of_one_weight_must_agree(known, checkpoint):
    alias, name = next(iter(known.meta["meta"]["aliases"].items()))
    state = {**known.weights, alias: known.weights[name] + 1}
    with pytest.raises(InputError, match="are two names of one weight but differ"):
        load(checkpoint(known, state=state))


def test_the_towers_weights_are_given_apart(known, checkpoint):
    state = {**known.weights, "vision_encoder.conv1.weight": torch.zeros(2, 2)}
    torch.testing.assert_close(
        load(checkpoint(known, state=state))(**asked(known)).logits, known.outputs["logits"], **TOLERANCE
    )


def test_written_back_it_is_the_same_checkpoint(known, checkpoint, tmp_path):
    load(checkpoint(known)).save_pretrained(tmp_path / "back")
    back = read_checkpoint(tmp_path / "back")
    assert back.keys() == known.weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in known.weights.items())
    again = load(tmp_path / "back")
    torch.testing.assert_close(again(**asked(known)).logits, known.outputs["logits"], **TOLERANCE)


def test_a_run_of_it_is_called_as_before(known, checkpoint, tmp_path):
    model = load(checkpoint(known))
    again = load(model.save(tmp_path / "run"))
    assert torch.equal(again(**asked(known)).logits, model(**asked(known)).logits)


@pytest.mark.parametrize("change", ["missing", "unexpected", "mis-shaped"])
def test_loading_is_strict(known, checkpoint, change):
    state, name = dict(known.weights), "lang_encoder.model.layers.1.gated_cross_attn_layer.attn.to_q.weight"
    state |= {"unexpected": {"perceiver.frame_embs": torch.zeros(8, 32)}, "mis-shaped": {name: torch.zeros(3, 3)}}.get(
        change, {}
    )
    if change == "missing":
        del state[name]
    with pytest.raises(InputError, match=change):
        load(checkpoint(known, state=state))


def test_a_part_of_the_weights_is_told(known, checkpoint):
    state = {name: weight for name, weight in known.weights.items() if not name.startswith("perceiver")}
    with pytest.raises(InputError, match=r"holds no perceiver\.latents"):
        load(checkpoint(known, state=state))


def rows(*texts, images, seed=0):
    """Padded rows, and as many random images for each."""
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
    tokens = torch.randn(len(texts), images, 1, 16, 32, generator=torch.Generator().manual_seed(seed))
    return {"lang_x": ids, "vision_x": tokens, "attention_mask": mask}


@pytest.mark.parametrize("immediate", [True, False])
def test_rows_of_different_numbers_of_images(known, checkpoint, immediate):
    """As the reference pads them: with images that no text looks at."""
    model = load(checkpoint(known, config={**known.config, "only_attend_immediate_media": immediate}))
    given = rows([7, MARK, 5, 6, MARK, 8], [MARK, 9, 4], images=2)
    with torch.no_grad():
        both = model(**given).logits
        alone = model(lang_x=given["lang_x"][:1], vision_x=given["vision_x"][:1]).logits
        torch.testing.assert_close(both[:1], alone, **TOLERANCE)
        alone = model(lang_x=given["lang_x"][1:, 3:], vision_x=given["vision_x"][1:, :1]).logits
        torch.testing.assert_close(both[1:, 3:], alone, **TOLERANCE)
    new = model.generate(**given, max_new_tokens=4, eos_token_id=None)
    for step in range(4):
        longer = torch.cat([given["lang_x"], new[:, :step]], 1)
        mask = torch.cat([given["attention_mask"], torch.ones(2, step, dtype=torch.long)], 1)
        whole = model(lang_x=longer, vision_x=given["vision_x"], attention_mask=mask).logits[:, -1]
        assert torch.equal(whole.argmax(-1), new[:, step])


def test_a_video_is_one_image(known, checkpoint):
    model = load(checkpoint(known))
    tokens = torch.randn(1, 1, 3, 16, 32)
    out = model(lang_x=torch.tensor([[MARK, 4, 5]]), vision_x=tokens)
    joined = model(lang_x=torch.tensor([[MARK, 4, 5]]), vision_x=tokens.flatten(2, 3)[:, :, None])
    torch.testing.assert_close(out.logits, joined.logits, **TOLERANCE)
    assert out.image_hidden_states.shape == (6, 32)


@pytest.mark.parametrize(
    ("text", "images", "told"),
    [
        ([MARK, 4, MARK], 1, "row 0 has 2 image tokens for 1 images"),
        ([MARK, 4], 0, "row 0 has 1 image tokens for 0 images"),
        ([MARK, 4], 3, "3 images for each row, but no row has more than 1 image tokens"),
    ],
)
def test_images_and_markers_must_agree(known, checkpoint, text, images, told):
    with pytest.raises(InputError, match=told):
        load(checkpoint(known))(**rows(text, images=images))


def test_text_alone(known, checkpoint):
    model = load(checkpoint(known))
    text = torch.tensor([[4, 5, 6]])
    assert torch.equal(model(text).logits, model(lang_x=text, vision_x=None, clear_conditioned_layers=True).logits)
    with pytest.raises(InputError, match="there is no text; give lang_x"):
        model(vision_x=torch.zeros(1, 1, 1, 16, 32))


def test_the_loss_is_that_of_the_language_model(known, checkpoint):
    model, given = load(checkpoint(known)), asked(known)
    labels = given["lang_x"].masked_fill(given["lang_x"] == MARK, -100)
    out = model(**given, labels=labels)
    expected = torch.nn.functional.cross_entropy(known.outputs["logits"][0, :-1], labels[0, 1:])
    torch.testing.assert_close(out.loss, expected, **TOLERANCE)
