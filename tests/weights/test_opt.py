"""OPT against its reference: freshly made random tiny models of every kind."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights import opt

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "ffn_dim": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CASES = {
    "norms first": {},
    "norms last, words narrower (350M)": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
    "words wider": {"word_embed_proj_dim": 64},
    "no last norm, no biases": {"_remove_final_layer_norm": True, "enable_bias": False},
    "a head of its own": {"tie_word_embeddings": False, "activation_function": "gelu"},
    "a head of its own over wider words": {"tie_word_embeddings": False, "word_embed_proj_dim": 64},
}
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def reference(case="norms first", seed=0):
    import transformers as hf

    torch.manual_seed(seed)
    model = hf.OPTForCausalLM(hf.OPTConfig(**SMALL | CASES[case])).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.15).add_(1 if "norm.weight" in name else 0)
    return model


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    theirs = reference(request.param, seed=len(request.param))
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


def prompts(side):
    torch.manual_seed(5)
    ids, mask = torch.randint(3, 97, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    for row, length in enumerate((4, 9, 7)):
        mask[row, slice(0, 9 - length) if side == "left" else slice(length, 9)] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


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
    assert torch.equal(ours.generate(**inputs, max_new_tokens=24), theirs.generate(**inputs, max_new_tokens=24)[:, 9:])


def test_gradients_equal_transformers(pair):
    theirs, ours = pair
    ids = torch.arange(3, 23)[None]
    theirs(input_ids=ids, labels=ids).loss.backward()
    ours(input_ids=ids, labels=ids).loss.backward()
    named = {name: weight.grad for name, weight in ours.model.named_parameters()}
    for name, gradient in ours.renaming.to_theirs(named).items():
        torch.testing.assert_close(gradient, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    import transformers as hf

    theirs, ours = pair
    ours.save_pretrained(tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    again = hf.OPTForCausalLM.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_the_names_of_the_first_files_load(tmp_path):
    """OPT's own files lack the first part of the names."""
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    given, expected = prompts("left"), load(tmp_path)(**prompts("left")).logits
    state = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("model."): weight for name, weight in state.items()}, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(**given).logits, expected)


def test_a_missing_weight_is_named(tmp_path):
    reference().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.decoder.layers.1.fc2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.decoder\.layers\.1\.fc2\.bias"):
        load(tmp_path)


def test_norms_without_weights_are_told():
    with pytest.raises(InputError, match="layer_norm_elementwise_affine"):
        opt.language_settings({"layer_norm_elementwise_affine": False})
