"""A Q-Former alone against its reference: known answers, and freshly made random tiny ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.front import load

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def written(folder, config, state):
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def part(tensors, name):
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


@pytest.mark.parametrize("text", [False, True], ids=["queries alone", "text behind them"])
def test_known_answers(known_answers, tmp_path, text):
    known = known_answers("blip2_qformer")
    name, given = "query_plus_text" if text else "query_only", known.inputs
    config = {**known.config, "use_qformer_text_input": text}
    model, expected = load(written(tmp_path, config, part(known.weights, name))), part(known.outputs, name)
    embeds = torch.cat([given["query_embeds"], given["text_embeds"]], dim=1) if text else given["query_embeds"]
    with torch.no_grad():
        output = model(
            embeds,
            query_length=8,
            attention_mask=given["attention_mask_qt"] if text else None,
            encoder_hidden_states=given["encoder_hidden_states"],
            encoder_attention_mask=None if text else given["encoder_attention_mask"],
            output_hidden_states=True,
        )
    real = given["attention_mask_qt"].bool() if text else torch.ones(2, 8, dtype=torch.bool)
    torch.testing.assert_close(output.last_hidden_state[real], expected["last_hidden_state"][real], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[real], expected[f"hidden_states.{i}"][real], **TOLERANCE)
    if not text:
        torch.testing.assert_close(output.pooler_output, expected["pooler_output"], **TOLERANCE)


def reference(*, text=True, frequency=2, depth=3, seed=0):
    import transformers as hf

    torch.manual_seed(seed)
    config = hf.Blip2QFormerConfig(
        hidden_size=24, num_hidden_layers=depth, num_attention_heads=3, intermediate_size=40, encoder_hidden_size=20,
        cross_attention_frequency=frequency, use_qformer_text_input=text, vocab_size=30,
    )  # fmt: skip
    model = hf.Blip2QFormerModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


@pytest.fixture
def pair(tmp_path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


def test_text_alone_equals_transformers(pair):
    theirs, ours = pair
    given = {"query_embeds": torch.randn(2, 6, 24), "query_length": 0}
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        expected, told = theirs(**given, attention_mask=mask), ours(**given, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(told.last_hidden_state[real], expected.last_hidden_state[real], **TOLERANCE)
    torch.testing.assert_close(told.pooler_output, expected.pooler_output, **TOLERANCE)


def test_masked_images_equal_transformers(pair):
    theirs, ours = pair
    seen = torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0]])
    given = {"query_embeds": torch.randn(2, 4, 24), "encoder_hidden_states": torch.randn(2, 7, 20)}
    with torch.no_grad():
        expected = theirs(**given, encoder_attention_mask=seen).last_hidden_state
        told = ours(**given, encoder_attention_mask=seen).last_hidden_state
    torch.testing.assert_close(told, expected, **TOLERANCE)


def test_text_beside_a_masked_image_which_the_reference_refuses(pair):
    """Text looks at no image, so it is as if each image were shorter."""
    _, ours = pair
    embeds, memory = torch.randn(2, 7, 24), torch.randn(2, 5, 20)
    seen = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    with torch.no_grad():
        told = ours(embeds, 4, encoder_hidden_states=memory, encoder_attention_mask=seen).last_hidden_state
        shorter = ours(embeds, 4, encoder_hidden_states=memory[:, :3]).last_hidden_state
    torch.testing.assert_close(told, shorter, **TOLERANCE)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    theirs, ours = pair
    ours.save(tmp_path / "back")
    back, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", tmp_path))
    assert back.keys() == given.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], given[name]) for name in given)
    assert type(load(tmp_path / "back")) is type(ours)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"query_embeds": torch.zeros(1, 2, 24)}, "2 queries without an image to look at"),
        (
            {"query_embeds": torch.zeros(1, 2, 24), "query_length": 0, "output_attentions": True},
            "output_attentions=True is not supported",
        ),
        ({"query_embeds": torch.zeros(1, 2, 24), "query_lenght": 0}, "did you mean 'query_length'"),
    ],
)
def test_what_it_cannot_read_is_told(pair, given, told):
    with pytest.raises(InputError, match=told):
        pair[1](**given)


def test_text_without_its_feed_forward_is_told(tmp_path):
    reference(text=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no feed-forward for it"):
        load(tmp_path)(torch.zeros(1, 2, 24), query_length=0)
