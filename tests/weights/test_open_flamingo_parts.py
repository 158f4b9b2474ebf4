"""OpenFlamingo as it is published: what was trained in one file, and frozen models in directories beside it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from foveal.core.errors import InputError
from foveal.front import load
from tests.weights.test_blip2 import random_weights

EXACT = {"atol": 1e-5, "rtol": 1e-5}
MARK, ADDED = 42, 3  # the token of an image; words that were added to the tables
TINY = {"vocab_size": 40, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
LAYERS = {
    "llama": "model.layers",
    "opt": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "mpt": "transformer.blocks",
}


def language(kind):
    """A random tiny language model of transformers, and what it is with the added words."""
    import transformers as hf

    torch.manual_seed(len(kind))
    wide = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, **TINY}
    if kind == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(intermediate_size=32, **wide))
    elif kind == "opt":
        model = hf.OPTForCausalLM(hf.OPTConfig(ffn_dim=32, word_embed_proj_dim=24, **wide))
    elif kind == "gpt_neox":
        model = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(intermediate_size=32, **wide))
    else:
        model = hf.MptForCausalLM(hf.MptConfig(d_model=24, n_heads=3, n_layers=2, max_seq_len=64, **TINY))
    return random_weights(model)


def tower():
    import transformers as hf

    torch.manual_seed(1)
    sizes = {"hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2}
    return random_weights(hf.CLIPVisionModel(hf.CLIPVisionConfig(image_size=16, patch_size=8, **sizes)))


def trained(kind, words):
    """What OpenFlamingo saves: the resampler, a block before the second layer, and the table of words."""
    shapes = {"perceiver.latents": (3, 20), "perceiver.norm.weight": (20,), "perceiver.norm.bias": (20,)}
    looks = {"norm_media.weight": (20,), "norm_media.bias": (20,), "norm_latents.weight": (20,)}
    looks |= {"norm_latents.bias": (20,), "to_q.weight": (8, 20), "to_kv.weight": (16, 20), "to_out.weight": (20, 8)}
    feed = {"0.weight": (20,), "0.bias": (20,), "1.weight": (80, 20), "3.weight": (20, 80)}
    shapes |= {f"perceiver.layers.0.0.{name}": shape for name, shape in looks.items()}
    shapes |= {f"perceiver.layers.0.1.{name}": shape for name, shape in feed.items()}
    attend = {"norm.weight": (24,), "norm.bias": (24,), "to_q.weight": (8, 24), "to_kv.weight": (16, 20)}
    feed = {"0.weight": (24,), "0.bias": (24,), "1.weight": (96, 24), "3.weight": (24, 96)}
    block = {f"attn.{name}": shape for name, shape in {**attend, "to_out.weight": (24, 8)}.items()}
    block |= {f"ff.{name}": shape for name, shape in feed.items()} | {"attn_gate": (1,), "ff_gate": (1,)}
    stem = f"lang_encoder.{LAYERS[kind]}.1.gated_cross_attn_layer."
    generator = torch.Generator().manual_seed(4)
    state = {
        name: torch.randn(shape, generator=generator) * 0.4
        for name, shape in {**shapes, **{stem + name: shape for name, shape in block.items()}}.items()
    }
    return state | {f"lang_encoder.{words}": torch.randn(40 + ADDED, 24, generator=generator) * 0.3}


def written(folder, kind, *, without=(), change=lambda state: state):
    """A directory as a user lays it out, and the two frozen models."""
    lm, clip = language(kind), tower()
    folder.mkdir(exist_ok=True)
    if "lang_encoder" not in without:
        lm.save_pretrained(folder / "lang_encoder")
    if "vision_encoder" not in without:
        clip.save_pretrained(folder / "vision_encoder")
    table = next(name for name, weight in lm.named_parameters() if weight is lm.get_input_embeddings().weight)
    torch.save(change(trained(kind, table)), folder / "checkpoint.pt")
    config = {"model_type": "open_flamingo", "cross_attn_every_n_layers": 2, "media_token_id": MARK}
    config |= {"perceiver": {"depth": 1, "heads": 2, "dim_head": 4, "num_latents": 3}}
    (folder / "config.json").write_text(json.dumps({**config, "xattn": {"heads": 2, "dim_head": 4}}))
    return lm, clip


def inputs():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 40, (2, 9), generator=generator)
    ids[:, 1], ids[:, 5] = MARK, MARK
    return {"lang_x": ids, "vision_x": torch.randn(2, 2, 1, 3, 16, 16, generator=generator)}


@pytest.mark.parametrize("kind", LAYERS)
def test_closed_gates_leave_the_language_model_as_it_was(tmp_path, kind):
    lm, _ = written(tmp_path, kind, change=lambda state: {
        name: torch.zeros(1) if name.endswith("gate") else weight for name, weight in state.items()
    })  # fmt: skip
    ours, given = load(tmp_path), inputs()
    lm.resize_token_embeddings(40 + ADDED, mean_resizing=False)
    with torch.no_grad():
        table = lm.get_input_embeddings().weight
        table.copy_(ours.model.language.embedding.weight)
        logits = lm(input_ids=given["lang_x"]).logits
        told = ours(**given).logits
    torch.testing.assert_close(told[..., :40], logits[..., :40], **EXACT)
    assert told.shape[-1] == 40 + ADDED


@pytest.mark.parametrize("kind", LAYERS)
def test_pictures_go_through_the_tower_and_change_what_is_said(tmp_path, kind):
    _, clip = written(tmp_path, kind)
    ours, given = load(tmp_path, format="open_flamingo"), inputs()
    with torch.no_grad():
        seen = clip(given["vision_x"].flatten(0, 2)).last_hidden_state[:, 1:]
        torch.testing.assert_close(ours.model.look(ours.batch(**given)).features, seen.flatten(0, 1), **EXACT)
        told, tokens = ours(**given).logits, seen.view(2, 2, 1, 4, 20)
        torch.testing.assert_close(ours(**{**given, "vision_x": tokens}).logits, told, **EXACT)
        other = ours(**{**given, "vision_x": -given["vision_x"]}).logits
    assert torch.allclose(other[:, 0], told[:, 0]) and not torch.allclose(other[:, 1:], told[:, 1:], atol=1e-3)
    new = ours.generate(**given, max_new_tokens=4, eos_token_id=None)
    for step in range(4):
        longer = {**given, "lang_x": torch.cat([given["lang_x"], new[:, :step]], dim=1)}
        assert torch.equal(ours(**longer).logits[:, -1].argmax(-1), new[:, step])


@pytest.mark.parametrize("kind", LAYERS)
def test_written_back_it_is_whole(tmp_path, kind):
    written(tmp_path, kind)
    ours, given = load(tmp_path), inputs()
    ours.save_pretrained(tmp_path / "back")
    back, known = load_file(tmp_path / "back" / "model.safetensors"), torch.load(tmp_path / "checkpoint.pt")
    assert all(torch.equal(back[name], weight) for name, weight in known.items())
    assert {"vision_encoder.conv1.weight", "vision_encoder.transformer.resblocks.1.attn.in_proj_bias"} <= back.keys()
    assert all(f"lang_encoder.{LAYERS[kind]}.{layer}.decoder_layer." in " ".join(back) for layer in (0, 1))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "back")(**given).logits, ours(**given).logits)
        assert torch.equal(load(ours.save(tmp_path / "run"))(**given).logits, ours(**given).logits)


def test_the_layouts_that_training_leaves(tmp_path):
    """With the state of the optimizer beside it, a name before each weight's, and a block under its other name."""
    written(tmp_path / "a", "gpt_neox")
    stem, other = "lang_encoder.gpt_neox.layers.1.gated_cross_attn_layer.", "lang_encoder.gated_cross_attn_layers.1."
    written(tmp_path / "b", "gpt_neox", change=lambda state: {
        "model_state_dict": {f"module.{name.replace(stem, other)}": weight for name, weight in state.items()},
        "epoch": 1,
    })  # fmt: skip
    given = inputs()
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "b")(**given).logits, load(tmp_path / "a")(**given).logits)


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("lang_encoder", 'language model; put its own directory there as lang_encoder, or name another as "lang_enc'),
        ("vision_encoder", "CLIP tower; put its own directory there as vision_encoder, or name another as"),
    ],
)
def test_a_frozen_model_that_is_not_there_is_told(tmp_path, absent, told):
    written(tmp_path, "llama", without=(absent,))
    with pytest.raises(InputError, match=told) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    (language("llama") if absent == "lang_encoder" else tower()).save_pretrained(tmp_path / "elsewhere")
    config = json.loads((tmp_path / "config.json").read_text())
    key = "lang_encoder_path" if absent == "lang_encoder" else "clip_vision_encoder_path"
    (tmp_path / "config.json").write_text(json.dumps({**config, key: "elsewhere"}))
    assert load(tmp_path)(**inputs()).logits.shape[-1] == 40 + ADDED


def test_a_table_without_the_image_token_is_told(tmp_path):
    name = "lang_encoder.model.embed_tokens.weight"
    written(tmp_path, "llama", change=lambda state: {key: one for key, one in state.items() if key != name})
    with pytest.raises(InputError, match="media_token_id is 42, but the table of words has 40 rows"):
        load(tmp_path)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_loading_is_strict(tmp_path, change):
    name = "lang_encoder.transformer.blocks.1.gated_cross_attn_layer.ff_gate"
    more = {"perceiver.frame_embs": torch.zeros(8, 20)} if change == "unexpected" else {}
    written(tmp_path, "mpt", change=lambda state: {**{k: w for k, w in state.items() if more or k != name}, **more})
    with pytest.raises(InputError, match=change):
        load(tmp_path)


def test_pictures_of_another_size_and_other_language_models_are_told(tmp_path):
    written(tmp_path, "llama")
    with pytest.raises(InputError, match=r"24 x 16 pixels .* for a tower of 16 x 16; resize it"):
        load(tmp_path)(**{**inputs(), "vision_x": torch.zeros(2, 2, 1, 3, 24, 16)})
    (tmp_path / "lang_encoder" / "config.json").write_text('{"model_type": "gptj"}')
    with pytest.raises(InputError, match="kind 'gptj' is not supported here; supported: llama"):
        load(tmp_path)
