"""BEiT-3 against its reference's known answers."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.heads.states import States
from foveal.models.masked import assemble
from foveal.weights import beit3
from foveal.weights.files import read_checkpoint, read_config

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
CONFIG = {
    "multiway": True, "encoder_embed_dim": 16, "encoder_attention_heads": 2, "encoder_ffn_embed_dim": 24,
    "encoder_layers": 2, "img_size": 16, "patch_size": 8, "vocab_size": 20, "max_source_positions": 12,
    "no_output_layer": True,
}  # fmt: skip
CASES = {
    "vl": ("textual_tokens", "visual_tokens", "text_padding_position"),
    "v": ("visual_tokens",),
    "t": ("textual_tokens", "text_padding_position"),
    "vl_masked": ("textual_tokens", "visual_tokens", "text_padding_position", "vision_masked_position"),
    "caption_mask": ("textual_tokens", "visual_tokens", "attn_mask"),
}


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, state):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


@pytest.fixture
def tiny(tmp_path):
    """A random tiny BEiT-3, written as the reference's checkpoint and read back."""
    torch.manual_seed(0)
    model = beit3.Beit3(assemble(beit3.model_config(CONFIG)), CONFIG, beit3.renaming(CONFIG)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    model.save_pretrained(tmp_path)
    return beit3.load(tmp_path, read_config(tmp_path))


@pytest.mark.parametrize("case", CASES)
def test_known_answers(known_answers, checkpoint, case):
    known = known_answers("beit3")
    model = load(checkpoint(known.config, known.weights), format="beit3")
    given = {**known.inputs, "attn_mask": known.inputs["caption_attn_mask"]}
    with torch.no_grad():
        output = model(**{name: given[name] for name in CASES[case]})
    torch.testing.assert_close(output["encoder_out"], known.outputs[f"{case}.encoder_out"], **TOLERANCE)
    assert output.multiway_split_position == int(known.outputs[f"{case}.split"])


def given(**more):
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])
    words, pixels = torch.randint(0, 20, (2, 5)), torch.randn(2, 3, 16, 16)
    return {"textual_tokens": words, "visual_tokens": pixels, "text_padding_position": padding, **more}


def test_a_row_alone_equals_itself_beside_others(tiny):
    both = given(vision_masked_position=torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]]))
    alone = {name: value[1:] for name, value in both.items() if name != "text_padding_position"}
    alone["textual_tokens"] = alone["textual_tokens"][:, :3]
    with torch.no_grad():
        torch.testing.assert_close(tiny(**both).encoder_out[1, :8], tiny(**alone).encoder_out[0], **TOLERANCE)


def test_it_is_written_back_whole(tmp_path, tiny):
    again = beit3.load(tmp_path, CONFIG)
    assert "encoder.layers.1.self_attn.inner_attn_ln.B.weight" in read_checkpoint(tmp_path)
    for name, weight in tiny.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


TUNED = {
    "answer": {"name": "mlp_classification", "labels": 7, "pre_norm": True},
    "words": {"name": "language_model", "bias": True},
    "pair": "contrastive",
}


@pytest.fixture
def tuned(tmp_path):
    """A random tiny checkpoint of unilm with one of its heads, read back."""

    def write(head):
        torch.manual_seed(0)
        model = assemble(beit3.model_config(CONFIG, {head: TUNED[head]})).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.5)
        beit3._WRAPPERS[head](model, CONFIG, beit3.renaming(CONFIG, tuned=True)).save_pretrained(tmp_path)
        assert "beit3.text_embed.weight" in read_checkpoint(tmp_path)
        return load(tmp_path)

    return write


def states_of(model, *names, **more):
    """What the encoder alone says, by the plain wrapper around the same parts."""
    inner = model.model
    inner.heads["states"] = States(width=16, vocabulary=20, table=inner.language.embedding.weight)
    told = inner(beit3.to_batch(inner, *names, **more)).heads["states"]
    del inner.heads["states"]
    return told


def test_answers_are_read_off_the_class_token(tuned):
    model, asked = tuned("answer"), given()
    parts = (asked["textual_tokens"], asked["visual_tokens"], asked["text_padding_position"])
    first, head = states_of(model, *parts)[:, 0], model.model.heads["answer"]
    pooled = head.pool(F.layer_norm(first, (16,), head.norm.weight, head.norm.bias)).tanh()
    wide = F.gelu(F.layer_norm(head.up(pooled), (32,), head.inner_norm.weight, head.inner_norm.bias))
    told = model(image=parts[1], question=parts[0], padding_mask=parts[2]).logits
    torch.testing.assert_close(told, head.classes(wide), **TOLERANCE)


def test_images_and_texts_are_encoded_alone(tuned):
    model, asked = tuned("pair"), given()
    words, pixels, padding = asked["textual_tokens"], asked["visual_tokens"], asked["text_padding_position"]
    head, told = model.model.heads["pair"], model(image=pixels, text_description=words, padding_mask=padding)
    sight = F.normalize(states_of(model, None, pixels)[:, 0] @ head.sight.weight.T, dim=-1)
    text = F.normalize(states_of(model, words, None, padding)[:, 0] @ head.words.weight.T, dim=-1)
    torch.testing.assert_close(told.vision_cls, sight, **TOLERANCE)
    torch.testing.assert_close(told.language_cls, text, **TOLERANCE)
    logits = head.scale.exp() * sight @ text.T
    expected = sum(F.cross_entropy(some, torch.arange(2)) for some in (logits, logits.T)) / 2
    torch.testing.assert_close(told.loss, expected, **TOLERANCE)
    assert model(image=pixels).language_cls is None and model(pixels, words, only_infer=True).loss is None


def test_a_caption_sees_no_later_word(tuned):
    model, asked = tuned("words"), given()
    words, pixels = asked["textual_tokens"], asked["visual_tokens"]
    told, other = model(pixels, words).logits, words.clone()
    other[:, 3] = (other[:, 3] + 1) % 20
    changed = (model(pixels, other).logits - told).abs().amax((0, 2)) > 1e-4
    assert told.shape == (2, 5, 20) and changed.tolist() == [False] * 3 + [True] * 2
    where = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
    torch.testing.assert_close(model(pixels, words, None, where).logits, told[where.bool()], **TOLERANCE)


@pytest.mark.parametrize("part", ["layernorm_embedding", "normalize_output", "subln"])
def test_norms_come_and_go_with_the_config(tmp_path, part):
    config = {**CONFIG, part: part == "layernorm_embedding"}
    model = beit3.Beit3(assemble(beit3.model_config(config)), config, beit3.renaming(config))
    model.save_pretrained(tmp_path)
    names = " ".join(read_checkpoint(tmp_path))
    inner = {"layernorm_embedding": "layernorm_embedding", "normalize_output": "encoder.layer_norm", "subln": "attn_ln"}
    assert (inner[part] in names) == config[part]
    assert beit3.load(tmp_path, config)(**given()).encoder_out.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"textual_tokens": None, "visual_tokens": None}, "neither words nor pixels"),
        ({"visual_tokens": torch.zeros(1, 3, 16, 16)}, "2 textual_tokens rows but 1 visual_tokens rows"),
        ({"visual_tokens": torch.zeros(2, 3, 24, 24)}, "an image of 24 x 24 pixels"),
        ({"text_padding_position": torch.zeros(2, 3)}, "3 text_padding_position entries but 5"),
        ({"vision_masked_position": torch.zeros(2, 5)}, r"\[2, 5\] for 2 images of 4 patches"),
        ({"visual_tokens": None, "vision_masked_position": torch.zeros(2, 4)}, "without visual_tokens"),
        ({"attn_mask": torch.zeros(4, 4)}, r"attn_mask \[4, 4\] for 10 tokens"),
        ({"attn_mask": 1 - torch.eye(10)}, "in no order"),
        ({"positions": torch.zeros(2, 5)}, r"positions=a tensor \[2, 5\] is not supported"),
        ({"textual_tokens": torch.zeros(2, 11, dtype=torch.long), "text_padding_position": None}, "11 words for an"),
    ],
)
def test_what_does_not_fit_is_named(tiny, changed, said):
    with pytest.raises(InputError, match=said):
        tiny(**given(**changed))


def test_another_encoder_of_the_same_library_is_refused():
    with pytest.raises(InputError, match="deepnorm True is not supported"):
        beit3.model_config({**CONFIG, "deepnorm": True})
