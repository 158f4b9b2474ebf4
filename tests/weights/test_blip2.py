"""BLIP-2 against its reference: known answers, and freshly made random tiny models of several sizes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.front import load

IMAGE = 98
QUERIES = 5
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, state):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


def test_known_answers(known_answers, checkpoint):
    known = known_answers("blip2_opt")
    model = load(checkpoint(known.config, known.weights))
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
    torch.testing.assert_close(output.logits, known.outputs["logits"], **TOLERANCE)
    torch.testing.assert_close(output.vision_outputs.last_hidden_state, known.outputs["vision"], **TOLERANCE)
    torch.testing.assert_close(output.qformer_outputs.last_hidden_state, known.outputs["qformer"], **TOLERANCE)
    projected = known.outputs["language_projection"].flatten(0, 1)
    torch.testing.assert_close(output.image_hidden_states, projected, **TOLERANCE)
    for i, state in enumerate(output.language_model_outputs.hidden_states):
        torch.testing.assert_close(state, known.outputs[f"hidden_states.{i}"], **TOLERANCE)


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXTS = {
    "opt": {"hidden_size": 40, "ffn_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 2},
    "opt, norms last": {
        **{"hidden_size": 40, "ffn_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"do_layer_norm_before": False, "tie_word_embeddings": False},
    },
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
}


def random_weights(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.25 if weight.ndim > 1 else 0.1).add_(1.0 if weight.ndim == 1 else 0.0)
    return model.eval()


def reference(text="opt", *, seed=0, frequency=2, depth=3):
    """A random tiny BLIP-2 of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    words = {"vocab_size": 99, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    kind = {"opt": hf.OPTConfig, "llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config}[text.split(",")[0]]
    config = hf.Blip2Config(
        vision_config={**SMALL, "hidden_size": 24, "image_size": 24, "patch_size": 8},
        qformer_config={**SMALL, "num_hidden_layers": depth, "cross_attention_frequency": frequency},
        text_config=kind(**words, **TEXTS[text]),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    model = random_weights(hf.Blip2ForConditionalGeneration(config))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 1
    model.language_model.generation_config.eos_token_id = 2
    return model


def inputs(images_by_row, *, left=True, seed=0):
    """Rows of words and images, padded, as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in images_by_row:
        row = torch.randint(3, 90, (2,), generator=generator).tolist()
        for _ in range(count):
            row += [IMAGE] * QUERIES + torch.randint(3, 90, (3,), generator=generator).tolist()
        rows.append(row)
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    ids = torch.tensor([[1] * p + row if left else row + [1] * p for p, row in zip(pads, rows, strict=True)])
    mask = torch.tensor([[0] * p + [1] * (width - p) if left else [1] * (width - p) + [0] * p for p in pads])
    pixels = torch.randn(sum(images_by_row), 3, 24, 24, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


CASES = {
    "opt": {"text": "opt"},
    "every layer looks": {"text": "opt, norms last", "frequency": 1},
    "the first alone looks": {"text": "opt", "frequency": 4, "depth": 4},
    "llama": {"text": "llama", "depth": 2},
    "qwen2": {"text": "qwen2", "frequency": 3},
}


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    theirs = reference(**CASES[request.param], seed=len(request.param))
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


@pytest.mark.parametrize("left", [True, False])
def test_equals_transformers(pair, left):
    theirs, ours = pair
    given = inputs([1, 2, 1], left=left)
    valid = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(valid & led & (given["input_ids"] != IMAGE), given["input_ids"], -100)
    with torch.no_grad():
        expected, output = theirs(**given, labels=labels), ours(**given, labels=labels)
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], **TOLERANCE)
    torch.testing.assert_close(output.loss, expected.loss, **TOLERANCE)
    for part in ("vision_outputs", "qformer_outputs"):
        for field in ("last_hidden_state", "pooler_output"):
            mine, other = getattr(getattr(output, part), field), getattr(getattr(expected, part), field)
            torch.testing.assert_close(mine, other, **TOLERANCE)


def test_greedy_tokens_equal_transformers(pair):
    theirs, ours = pair
    given = inputs([1, 2, 1])
    length = given["input_ids"].shape[1]
    new = theirs.generate(**given, max_new_tokens=8, do_sample=False)
    assert torch.equal(ours.generate(**given, max_new_tokens=8), new[:, length:] if new.shape[1] > 8 else new)


def test_without_a_text_an_image_is_told_of(tmp_path):
    theirs = reference(seed=7)
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 24, 24)
    new = theirs.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
    assert torch.equal(load(tmp_path).generate(pixel_values=pixels, max_new_tokens=6), new[:, -6:])


def test_gradients_equal_transformers(tmp_path):
    theirs = reference(seed=8)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([1])
    theirs(**given, labels=given["input_ids"]).loss.backward()
    ours(**given, labels=given["input_ids"]).loss.backward()
    named = {name: weight.grad for name, weight in ours.model.named_parameters()}
    for name, gradient in ours.renaming.to_theirs(named).items():
        torch.testing.assert_close(gradient, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-3)


def test_larger_images_are_read_where_asked(tmp_path):
    theirs = reference(seed=9)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([1])
    given["pixel_values"] = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        expected = theirs(**given, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ours(**given, interpolate_pos_encoding=True).logits, expected, **TOLERANCE)
    with pytest.raises(InputError, match=r"32 x 40 pixels .* for a tower of 24 x 24"):
        ours(**given)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    import transformers as hf

    theirs, ours = pair
    ours.save_pretrained(tmp_path / "back")
    written, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", tmp_path))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)
    again = hf.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_run_of_it_is_called_as_before(tmp_path):
    reference(seed=10).save_pretrained(tmp_path / "there")
    ours, given = load(tmp_path / "there"), inputs([1, 1])
    again = load(ours.save(tmp_path / "run"))
    with torch.no_grad():
        assert torch.equal(again(**given).logits, ours(**given).logits)
        assert torch.equal(again(**given).qformer_outputs.pooler_output, ours(**given).qformer_outputs.pooler_output)


@pytest.mark.parametrize(("markers", "images"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_images_and_markers_must_agree(tmp_path, markers, images):
    reference(seed=4).save_pretrained(tmp_path)
    given = inputs([markers])
    given["pixel_values"] = torch.randn(images, 3, 24, 24) if images else None
    told = f"{QUERIES * markers} image tokens in input_ids but {images} images bring {QUERIES * images}"
    with pytest.raises(InputError, match=told):
        load(tmp_path)(**given)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_count_of_queries_that_disagrees_is_told(tmp_path):
    reference(seed=5).save_pretrained(tmp_path)
    change_config(tmp_path, num_query_tokens=7)
    with pytest.raises(InputError, match="says 7 num_query_tokens but the weights hold 5"):
        load(tmp_path)


def test_a_class_that_is_not_there_is_told_with_those_that_are(tmp_path):
    reference(seed=5).save_pretrained(tmp_path)
    change_config(tmp_path, architectures=["Blip2TextModelWithProjection"])
    with pytest.raises(InputError, match=r"unknown architecture 'Blip2Text.* blip-2 models .* Blip2ForImageTextRet"):
        load(tmp_path)


def test_a_missing_weight_is_named(tmp_path):
    reference(seed=5).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["qformer.encoder.layer.1.output_query.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: qformer\.encoder\.layer\.1\.output_query\.dense\.bias"):
        load(tmp_path)


def test_a_config_without_an_image_token_is_told(tmp_path):
    reference(seed=5).save_pretrained(tmp_path)
    change_config(tmp_path, image_token_index=None)
    with pytest.raises(InputError, match="names no image_token_index"):
        load(tmp_path)


def test_the_sizes_of_the_real_model():
    from foveal.models.assembly import empty
    from foveal.weights import blip2

    model = empty(blip2.model_config({"model_type": "blip-2", "image_token_index": 50265}))
    assert sum(weight.numel() for weight in model.connector.stack.parameters()) == 105_137_664
    assert model.connector.queries.numel() == 24_576
    assert (model.vision.depth, model.vision.width) == (39, 1408)
