"""IDEFICS, the first: known answers, and freshly made random tiny models of other sizes and settings."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, state):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["idefics1_float", "idefics1_vector_qkln"])
def test_known_answers(known_answers, checkpoint, tmp_path, name):
    known = known_answers(name)
    model = load(checkpoint(known.config, known.weights))
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
        seen = model.model.look(model.batch(**known.inputs))
    torch.testing.assert_close(output.logits, known.outputs["logits"], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state, known.outputs[f"hidden_states.{i}"], **TOLERANCE)
    torch.testing.assert_close(seen.features, known.outputs["vision"].flatten(0, 1), **TOLERANCE)
    torch.testing.assert_close(output.image_hidden_states, known.outputs["perceiver"].flatten(0, 1), **TOLERANCE)
    model.save_pretrained(tmp_path / "back")
    back = read_checkpoint(tmp_path / "back")
    assert back.keys() == known.weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in known.weights.items())


def reference(seed, **settings):
    """A random tiny IDEFICS of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    vision = {
        "embed_dim": 24, "image_size": 24, "patch_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 20,
    }  # fmt: skip
    perceiver = {
        "resampler_n_latents": 5, "resampler_depth": 1, "resampler_n_heads": 3, "resampler_head_dim": 4,
        "qk_layer_norms_perceiver": settings.pop("perceiver_norms", False),
    }  # fmt: skip
    small = {
        "vocab_size": 90, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2,
        "max_position_embeddings": 64, "cross_layer_interval": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    config = hf.IdeficsConfig(
        **{**small, **settings},
        vision_config=vision,
        perceiver_config=perceiver,
    )
    model = hf.IdeficsForVisionText2Text(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3 if weight.ndim > 1 else 0.1).add_(1.0 if weight.ndim == 1 else 0.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(*, rows=3, length=9, images=2, words=90, seed=0, left=True):
    """Padded rows whose tokens look at some of their images, at all, or at none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, words, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(1, rows):
        if left:
            mask[row, :row], ids[row, :row] = 0, 0
        else:
            mask[row, -row:], ids[row, -row:] = 0, 0
    begins = torch.randint(1, length, (rows, 1, images), generator=generator).sort(-1).values
    looks = torch.arange(length)[None, :, None] >= begins
    looks[-1, :, -1] = False  # an image that fills up the row
    pixels = torch.randn(rows, images, 3, 24, 24, generator=generator)
    return {
        "input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_attention_mask": looks.long()
    }  # fmt: skip


CASES = [
    {},
    {"use_resampler": True, "additional_vocab_size": 7},
    {"use_resampler": True, "perceiver_norms": True, "qk_layer_norms": True, "cross_layer_interval": 2},
    {"alpha_type": "vector", "cross_layer_interval": 4, "rms_norm_eps": 1e-3},
    {"tie_word_embeddings": True, "additional_vocab_size": 3, "hidden_act": "gelu"},
]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_transformers(tmp_path, case, left):
    theirs = reference(case, **CASES[case])
    theirs.save_pretrained(tmp_path)
    ours, words = load(tmp_path), 90 + CASES[case].get("additional_vocab_size", 0)
    given = inputs(words=words, images=1 + case % 3, seed=case, left=left)
    valid = given["attention_mask"].bool()
    with torch.no_grad():
        expected, output = theirs(**given), ours(**given)
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], atol=5e-5, rtol=1e-5)
    seen = expected.image_hidden_states.flatten(0, 2)
    torch.testing.assert_close(output.image_hidden_states, seen, **TOLERANCE)
    if left:
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


def test_the_loss_equals_that_of_transformers(tmp_path):
    theirs = reference(7)
    theirs.save_pretrained(tmp_path)
    given = inputs(rows=1)
    given["labels"] = given["input_ids"].masked_fill(torch.arange(9) < 4, -100)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**given).loss, theirs(**given).loss, **TOLERANCE)


def test_what_the_tower_says_may_be_given(tmp_path):
    theirs = reference(8, use_resampler=True)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs()
    pixels = given.pop("pixel_values")
    with torch.no_grad():
        encoded = theirs.model.vision_model(pixels.flatten(0, 1)).last_hidden_state.unflatten(0, (3, 2))
        expected = theirs(**given, image_encoder_embeddings=encoded).logits
        output = ours(**given, image_encoder_embeddings=encoded).logits
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output[valid], expected[valid], **TOLERANCE)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_written_back_it_is_the_same_checkpoint(tmp_path, case):
    import transformers as hf

    theirs = reference(case, **CASES[case])
    theirs.save_pretrained(tmp_path / "there")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    there, back = read_checkpoint(tmp_path / "there"), read_checkpoint(tmp_path / "back")
    assert all(torch.equal(back[name], weight) for name, weight in there.items()), set(there) ^ set(back)
    again = hf.IdeficsForVisionText2Text.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_run_of_it_is_called_as_before(tmp_path):
    reference(1, additional_vocab_size=4).save_pretrained(tmp_path / "there")
    model, given = load(tmp_path / "there"), inputs()
    again = load(model.save(tmp_path / "run"))
    assert torch.equal(again(**given).logits, model(**given).logits)


def test_text_alone_finds_nothing_to_look_at(tmp_path):
    """The reference wants images; text that looks at none of them is the same."""
    theirs = reference(2, use_resampler=True)
    theirs.save_pretrained(tmp_path)
    given = inputs(rows=1)
    unseen = {**given, "image_attention_mask": given["image_attention_mask"] * 0}
    with torch.no_grad():
        expected = theirs(**unseen).logits
        ours = load(tmp_path)
        torch.testing.assert_close(ours(input_ids=given["input_ids"]).logits, expected, **TOLERANCE)
        torch.testing.assert_close(ours(**unseen).logits, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_attention_mask": None}, "images without image_attention_mask"),
        ({"image_attention_mask": torch.ones(3, 9, 3).long()}, r"\[3, 3\] texts and images .* but \[3, 2\]"),
        ({"pixel_values": torch.zeros(3, 2, 3, 32, 32)}, "32 x 32 pixels for a tower of 24 x 24"),
        ({"image_encoder_embeddings": torch.zeros(3, 2, 10, 24)}, "give one of them"),
        ({"perceiver_embeddings": torch.zeros(3, 2, 5, 24)}, "perceiver_embeddings"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, change, told):
    reference(3).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=told):
        load(tmp_path)(**{**inputs(), **change})


@pytest.mark.parametrize("change", ["missing", "unexpected", "mis-shaped"])
def test_loading_is_strict(tmp_path, change):
    reference(4, additional_vocab_size=4).save_pretrained(tmp_path)
    state, name = read_checkpoint(tmp_path), "model.gated_cross_attn_layers.1.alpha_dense"
    if change == "missing":
        del state[name]
    else:
        state |= {"unexpected": {"model.more.weight": torch.zeros(1)}, "mis-shaped": {name: torch.zeros(3)}}[change]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=change):
        load(tmp_path)


def test_blocks_must_come_out_even(tmp_path):
    reference(5).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "cross_layer_interval": 3}))
    with pytest.raises(InputError, match="every 3th of 4 layers"):
        load(tmp_path)
