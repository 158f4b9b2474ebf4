"""ViLT against its reference: known answers, and freshly made random tiny models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def raster(states, index, words):
    """The reference's states with its patches, which come in random order, in that of the image."""
    columns = int(index[..., 1].max()) + 1
    order = (index[..., 0] * columns + index[..., 1]).argsort(dim=1)
    patches = states[:, words + 1 :].gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
    return torch.cat([states[:, : words + 1], patches], dim=1)


def test_known_answers(known_answers, tmp_path):
    known = known_answers("vilt")
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    save_file({name: weight.clone() for name, weight in known.weights.items()}, tmp_path / "model.safetensors")
    with torch.no_grad():
        output = load(tmp_path)(**known.inputs, output_hidden_states=True)
    index, words = known.outputs["patch_index"], known.inputs["input_ids"].shape[1]
    expected = raster(known.outputs["last_hidden_state"], index, words)
    torch.testing.assert_close(output.last_hidden_state, expected, **TOLERANCE)
    torch.testing.assert_close(output.pooler_output, known.outputs["pooler_output"], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state, raster(known.outputs[f"hidden_states.{i}"], index, words), **TOLERANCE)


def reference(seed, kind, **more):
    """A random tiny ViLT of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    config = hf.ViltConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=24,
        patch_size=8, max_position_embeddings=16, modality_type_vocab_size=3, num_labels=5, **more,
    )  # fmt: skip
    model = getattr(hf, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def given():
    """Two texts with padding, and two images of other sizes than the positions', the second padded."""
    pixel_mask = torch.ones(2, 16, 40, dtype=torch.long)
    pixel_mask[1, 8:], pixel_mask[1, :, 24:] = 0, 0
    words = torch.ones(2, 6, dtype=torch.long)
    words[1, 4:] = 0
    return {
        "input_ids": torch.randint(1, 50, (2, 6)),
        "attention_mask": words,
        "token_type_ids": torch.randint(0, 2, (2, 6)),
        "pixel_values": torch.randn(2, 3, 16, 40),
        "pixel_mask": pixel_mask,
    }


def labels(kind):
    return {
        "ViltForMaskedLM": torch.tensor([[-100, 3, -100, -100, 7, -100], [1, -100, -100, -100, -100, -100]]),
        "ViltForQuestionAnswering": torch.rand(2, 5),
    }.get(kind)


@pytest.mark.parametrize("kind", ["ViltForMaskedLM", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"])
def test_equal_to_the_reference_and_written_back_to_it(tmp_path, kind):
    import transformers as hf

    theirs = reference(0, kind)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, asked, wanted = load(tmp_path / "theirs"), given(), labels(kind)
    with torch.no_grad():
        expected, mine = theirs(**asked, labels=wanted), ours(**asked, labels=wanted)
    valid = asked["attention_mask"].bool() if kind == "ViltForMaskedLM" else slice(None)
    torch.testing.assert_close(mine.logits[valid], expected.logits[valid], **TOLERANCE)
    if wanted is not None:
        torch.testing.assert_close(mine.loss, expected.loss, **TOLERANCE)
    left = {**asked, "attention_mask": asked["attention_mask"].flip(-1)}
    with torch.no_grad():  # the reference pools what stands in column 0 all the same
        torch.testing.assert_close(ours(**left).logits[:, -3:], theirs(**left).logits[:, -3:], **TOLERANCE)
    ours.save_pretrained(tmp_path / "back")
    back = getattr(hf, kind).from_pretrained(tmp_path / "back").state_dict()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


def test_modality_of_a_second_image_and_a_row_alone(tmp_path):
    theirs, asked = reference(1, "ViltModel"), given()
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    with torch.no_grad():
        expected = theirs(**asked, image_token_type_idx=2)
        both = ours(**asked, image_token_type_idx=2)
        alone = {name: value[1:] for name, value in asked.items() if name != "pixel_mask"}
        alone["pixel_values"] = alone["pixel_values"][..., :8, :24]
        single = ours(**alone, image_token_type_idx=2)
    torch.testing.assert_close(both.pooler_output, expected.pooler_output, **TOLERANCE)
    torch.testing.assert_close(both.last_hidden_state[1, :10], single.last_hidden_state[0], **TOLERANCE)


def test_padding_on_the_left_equals_that_of_the_reference(tmp_path):
    theirs, asked = reference(3, "ViltForQuestionAnswering"), given()
    theirs.save_pretrained(tmp_path)
    asked["attention_mask"] = asked["attention_mask"].flip(1)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**asked).logits, theirs(**asked).logits, **TOLERANCE)


@pytest.mark.parametrize("name", ["ViltForImagesAndTextClassification", "ViltForTokenClassification"])
def test_a_class_that_is_not_there_is_told_with_those_that_are(tmp_path, name):
    reference(2, "ViltModel").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(InputError, match=f"unknown architecture '{name}' .* vilt models Foveal loads ViltModel, "):
        load(tmp_path)


def test_what_does_not_fit_is_named(tmp_path):
    reference(2, "ViltModel", max_image_length=4).save_pretrained(tmp_path)
    model, asked = load(tmp_path), given()
    with pytest.raises(InputError, match="0 images for 2 texts"):
        model(asked["input_ids"])
    with pytest.raises(InputError, match="2 x 5 patches where the config's max_image_length allows 4"):
        model(**asked)
    with pytest.raises(InputError, match="5 entries of a mask of words but 6 tokens"):
        model(asked["input_ids"], torch.ones(2, 5), pixel_values=torch.zeros(2, 3, 16, 16))
    with pytest.raises(InputError, match="output_attentions=True is not supported"):
        model(asked["input_ids"], pixel_values=torch.zeros(2, 3, 16, 16), return_dict=True, output_attentions=True)
    with pytest.raises(InputError, match="has no loss"):
        model(asked["input_ids"], pixel_values=torch.zeros(2, 3, 16, 16), labels=torch.zeros(2, 6))
    state = read_checkpoint(tmp_path)
    save_file({name: weight for name, weight in state.items() if "cls_token" not in name},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=r"missing: embeddings\.cls_token"):
        load(tmp_path)
