"""LAVIS's layouts: the weights of random tiny models of transformers under LAVIS's names give the same numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from foveal.core.errors import InputError
from foveal.front import load
from tests.weights import test_blip2 as blip2
from tests.weights import test_instructblip as instructblip
from tests.weights.test_blip2 import IMAGE, TOLERANCE

PARTS = {  # of a name of transformers, in order
    "vision_model.embeddings.patch_embedding": "visual_encoder.patch_embed.proj",
    "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
    "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
    "vision_model.encoder.layers": "visual_encoder.blocks",
    "vision_model.post_layernorm": "ln_vision",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "qformer.layernorm": "Qformer.bert.embeddings.LayerNorm",
    "qformer.embeddings.layernorm": "Qformer.bert.embeddings.LayerNorm",
    "qformer.embeddings": "Qformer.bert.embeddings",
    "qformer.encoder": "Qformer.bert.encoder",
    "attention.attention.": "attention.self.",
    "language_projection": "{map}",
    "language_model": "{language}",
}


def theirs_of(model, *, language="opt_model", projection="opt_proj"):
    """A model's weights as LAVIS names them: without a bias of the tower's keys, which is zero."""
    state = {}
    for name, weight in model.state_dict().items():
        for part, other in PARTS.items():
            name = name.replace(part, other.format(map=projection, language=language))
        if name.endswith("attn.qkv.bias"):
            query, _, value = weight.chunk(3)
            stem = name.removesuffix("qkv.bias")
            state |= {f"{stem}q_bias": query.clone(), f"{stem}v_bias": value.clone()}
        else:
            state[name] = weight.clone()
    return state


def as_lavis(model):
    """The model as LAVIS builds it: keys of the tower have no bias, and the norm after it another epsilon."""
    for layer in model.vision_model.encoder.layers:
        with torch.no_grad():
            layer.self_attn.qkv.bias.chunk(3)[1].zero_()
    model.vision_model.post_layernorm.eps = 1e-5
    return model


def config_of(model, kind="blip2_opt", **more):
    sizes = {"image_size": 24, "num_query_token": blip2.QUERIES, "image_token_index": IMAGE}
    return {"model_type": kind, **sizes, "vision_heads": 4, "heads": 4, **more}


def write(folder, config, state, name="blip2.pth"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"model": state, "epoch": 3}, folder / name)
    return folder


@pytest.fixture
def model():
    return as_lavis(blip2.reference(seed=3))


def test_a_whole_file_equals_transformers(model, tmp_path):
    config = config_of(model, text_config=model.config.text_config.to_dict())
    ours, given = load(write(tmp_path, config, theirs_of(model))), blip2.inputs([1, 2, 1])
    valid = given["attention_mask"].bool()
    with torch.no_grad():
        expected, output = model(**given), ours(**given)
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], **TOLERANCE)
    queries = expected.qformer_outputs.last_hidden_state
    torch.testing.assert_close(output.qformer_outputs.last_hidden_state, queries, **TOLERANCE)
    length = given["input_ids"].shape[1]
    new = model.generate(**given, max_new_tokens=8, do_sample=False, eos_token_id=2)
    new = new[:, length:] if new.shape[1] > 8 else new
    assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


@pytest.mark.parametrize("bare", [False, True], ids=["transformers' names", "the names of OPT's first files"])
def test_frozen_parts_lie_in_files_of_their_own(model, tmp_path, bare):
    state = theirs_of(model)
    whole = load(write(tmp_path / "a", config_of(model, text_config=model.config.text_config.to_dict()), state))
    learned = {name: w for name, w in state.items() if not name.startswith(("visual_encoder.", "opt_model."))}
    folder = write(tmp_path / "b", config_of(model, opt_model="opt"), learned)
    tower = {name.removeprefix("visual_encoder."): w for name, w in state.items() if name.startswith("visual_encoder.")}
    torch.save(
        {**tower, "norm.weight": torch.ones(24), "blocks.39.norm1.weight": torch.ones(24)}, folder / "eva_vit_g.pth"
    )
    (folder / "opt").mkdir()
    (folder / "opt" / "config.json").write_text(json.dumps(model.config.text_config.to_dict()))
    language = {name.removeprefix("opt_model."): w for name, w in state.items() if name.startswith("opt_model.")}
    if bare:
        language = {name.removeprefix("model."): w for name, w in language.items() if name != "lm_head.weight"}
    torch.save(language, folder / "opt" / "pytorch_model.bin")
    given = blip2.inputs([1])
    with torch.no_grad():
        assert torch.equal(load(folder)(**given).logits, whole(**given).logits)


def test_instructblip_with_llama(tmp_path):
    model = as_lavis(instructblip.reference("llama", seed=6))
    names = {"language": "llm_model", "projection": "llm_proj"}
    config = config_of(model, "blip2_vicuna_instruct", text_config=model.config.text_config.to_dict())
    ours, given = load(write(tmp_path, config, theirs_of(model, **names))), instructblip.inputs([1, 1])
    valid = given["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits[valid], model(**given).logits[valid], **TOLERANCE)


def test_written_back_it_has_the_same_weights(model, tmp_path):
    state = theirs_of(model)
    config = config_of(model, text_config=model.config.text_config.to_dict())
    ours = load(write(tmp_path / "there", config, state), format="lavis")
    ours.save_pretrained(tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == state.keys() - {"opt_model.lm_head.weight"}  # tied to the table of words
    assert all(torch.equal(back[name], state[name]) for name in back)
    given = blip2.inputs([1])
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "back")(**given).logits, ours(**given).logits)
        assert torch.equal(load(ours.save(tmp_path / "run"))(**given).logits, ours(**given).logits)


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("visual_encoder.", r"no visual_encoder\.\* weights; put eva_vit_g\.pth there"),
        ("opt_model.", r"no opt_model\.\* weights; put the language model's own directory there"),
        ("query_tokens", "holds no query_tokens"),
        ("ln_vision.bias", r"missing: ln_vision\.bias"),
    ],
)
def test_what_is_absent_is_named(model, tmp_path, absent, told):
    state = {name: weight for name, weight in theirs_of(model).items() if not name.startswith(absent)}
    config = config_of(model, text_config=model.config.text_config.to_dict())
    with pytest.raises(InputError, match=told):
        load(write(tmp_path, config, state))


def test_another_number_of_queries_is_told(model, tmp_path):
    config = config_of(model, text_config=model.config.text_config.to_dict()) | {"num_query_token": 9}
    with pytest.raises(InputError, match=r"9 num_query_token in config\.json but 5 queries in the weights"):
        load(write(tmp_path, config, theirs_of(model)))


def test_two_checkpoints_in_one_directory_are_told(model, tmp_path):
    config = config_of(model, text_config=model.config.text_config.to_dict())
    write(tmp_path, config, theirs_of(model))
    with pytest.raises(InputError, match=r"holds 2 \.pth files"):
        load(write(tmp_path, config, theirs_of(model), name="other.pth"))
