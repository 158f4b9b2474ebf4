"""GPT-NeoX and MPT against their references: freshly made random tiny models of every kind."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights import gpt_neox, mpt
from tests.weights.test_opt import EXACT, prompts

NEOX = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
MPT = {"d_model": 48, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}
CASES = {
    "neox": {**NEOX, "rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 0.5}},
    "neox, a third of each head, in turns": {
        **NEOX,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.34},
        "use_parallel_residual": False,
    },
    "neox, whole heads, tied": {
        **NEOX,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1.0},
        "tie_word_embeddings": True,
        "hidden_act": "gelu_new",
    },
    "mpt": MPT,
    "mpt, 6 heads": {**MPT, "n_heads": 6},
}


def reference(case, seed=0):
    import transformers as hf

    torch.manual_seed(seed)
    kind, sizes = case.split(",")[0], CASES[case]
    words = {"vocab_size": 97, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    if kind == "mpt":
        model = hf.MptForCausalLM(hf.MptConfig(**sizes, **words)).eval()
    else:
        model = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**sizes, **words, max_position_embeddings=64)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.15).add_(1 if "norm" in name and name.endswith("weight") else 0)
    return model


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    theirs = reference(request.param, seed=len(request.param))
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_states_and_loss_equal_transformers(pair, side):
    theirs, ours = pair
    inputs = prompts(side)
    valid = inputs["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(valid & led, inputs["input_ids"], -100)
    with torch.no_grad():
        expected = theirs(**inputs, labels=labels, output_hidden_states=True)
        output = ours(**inputs, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], **EXACT)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    for mine, state in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[valid], state[valid], **EXACT)


def test_greedy_tokens_equal_transformers(pair):
    theirs, ours = pair
    inputs = prompts("left")
    new = theirs.generate(**inputs, max_new_tokens=24, do_sample=False)[:, 9:]
    assert torch.equal(ours.generate(**inputs, max_new_tokens=24), new)


def test_gradients_equal_transformers(pair):
    theirs, ours = pair
    ids = torch.arange(3, 23)[None]
    theirs(input_ids=ids, labels=ids).loss.backward()
    ours(input_ids=ids, labels=ids).loss.backward()
    named = {name: weight.grad for name, weight in ours.model.named_parameters()}
    for name, gradient in ours.renaming.to_theirs(named).items():
        there = theirs.get_parameter(name.replace("embed_out", "lm_head"))  # the file's name, and the class's
        torch.testing.assert_close(gradient, there.grad, atol=1e-5, rtol=1e-4)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    again = type(theirs).from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("case", "name"),
    [("neox", "gpt_neox.layers.1.attention.query_key_value.bias"), ("mpt", "transformer.blocks.1.norm_2.weight")],
)
def test_a_missing_weight_is_named(tmp_path, case, name):
    reference(case).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"missing: {name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "config", "told"),
    [
        (gpt_neox, {"model_type": "gpt_neox", "attention_bias": False}, "attention_bias"),
        (gpt_neox, {"model_type": "gpt_neox", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        (mpt, {"model_type": "mpt", "attn_config": {"clip_qkv": 6}}, "clip_qkv 6"),
        (mpt, {"model_type": "mpt", "attn_config": {"alibi": False}}, "alibi False"),
        (mpt, {"model_type": "mosaic_gpt", "attn_clip_qkv": 6}, "clip_qkv 6"),
        (mpt, {"model_type": "mpt", "no_bias": False}, "no_bias False"),
    ],
)
def test_settings_that_are_lacking_are_told(family, config, told):
    with pytest.raises(InputError, match=told):
        family.language_settings(config)


def mosaic(state, ids, *, heads, depth):
    """What MosaicML's first model says, written down anew: queries and keys are normed over all heads together."""
    hidden = state["transformer.wte.weight"][ids]
    width, length = hidden.shape[-1], ids.shape[1]
    falls = 2.0 ** -(torch.arange(1, heads + 1) * 8 / heads)
    away = torch.arange(length)[:, None] - torch.arange(length)
    bias = torch.where(away >= 0, -falls[:, None, None] * away, -torch.inf)
    for layer in range(depth):
        part = {name.removeprefix(f"transformer.blocks.{layer}."): weight for name, weight in state.items()}
        read = F.layer_norm(hidden, (width,), part["ln_1.weight"])
        query, key, value = (read @ part["attn.Wqkv.weight"].T).chunk(3, dim=-1)
        query = F.layer_norm(query, (width,), part["attn.q_ln.weight"])
        key = F.layer_norm(key, (width,), part["attn.k_ln.weight"])
        query, key, value = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (query, key, value))
        scores = query @ key.mT / (width // heads) ** 0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = hidden + mixed @ part["attn.out_proj.weight"].T
        read = F.layer_norm(hidden, (width,), part["ln_2.weight"])
        hidden = hidden + F.gelu(read @ part["mlp.mlp_up.weight"].T) @ part["mlp.mlp_down.weight"].T
    return F.layer_norm(hidden, (width,), state["transformer.ln_f.weight"]) @ state["transformer.wte.weight"].T


def test_the_first_of_its_kind_under_its_own_names(tmp_path):
    generator = torch.Generator().manual_seed(3)
    sizes = {"ln_1": (24,), "attn.q_ln": (24,), "attn.k_ln": (24,), "ln_2": (24,), "attn.Wqkv": (72, 24)}
    sizes |= {"attn.out_proj": (24, 24), "mlp.mlp_up": (96, 24), "mlp.mlp_down": (24, 96)}
    layers = {f"blocks.{i}.{name}": size for i in range(2) for name, size in sizes.items()}
    state = {
        f"transformer.{name}.weight": torch.randn(size, generator=generator) * 0.3 + (len(size) == 1)
        for name, size in {**layers, "wte": (50, 24), "ln_f": (24,)}.items()
    }
    config = {"model_type": "mosaic_gpt", "d_model": 24, "n_heads": 4, "n_layers": 2, "vocab_size": 50}
    config |= {"max_seq_len": 32, "attn_qk_ln": True, "alibi": True, "alibi_bias_max": 8, "no_bias": True}
    (tmp_path / "config.json").write_text(json.dumps({**config, "mlp_ratio": 4, "attn_clip_qkv": None}))
    save_file(state, tmp_path / "model.safetensors")
    ours, ids = load(tmp_path), torch.randint(0, 50, (2, 12), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, mosaic(state, ids, heads=4, depth=2), **EXACT)
        new = ours.generate(input_ids=ids, max_new_tokens=5)
        for step in range(5):
            whole = mosaic(state, torch.cat([ids, new[:, :step]], dim=1), heads=4, depth=2)[:, -1]
            assert torch.equal(whole.argmax(-1), new[:, step])
    ours.save_pretrained(tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
