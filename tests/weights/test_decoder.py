"""Llama, Mistral, Qwen2, Qwen3 and SmolLM3 against their references: known answers, and random tiny models."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.weights import decoder, families
from foveal.weights.files import read_config, write_json

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
CASES = {
    "llama": ("Llama", {}),
    "llama grouped and tied": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama one kv head, own head width": ("Llama", {"num_key_value_heads": 1, "head_dim": 20}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama 3": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "llama stretched": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "head_dim": 10, "sliding_window": None}),
    "mistral with a window": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 5}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "qwen2 tied": ("Qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "qwen3 with biases": ("Qwen3", {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"num_key_value_heads": 2, "no_rope_layer_interval": 2}),
}
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def load(folder):
    return families.load(folder, read_config(folder))


def reference(case="llama grouped and tied", seed=0):
    import transformers

    torch.manual_seed(seed)
    kind, settings = CASES[case]
    config = getattr(transformers, f"{kind}Config")(**SMALL | settings)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.15).add_(1 if "norm" in name else 0)
    return model


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    theirs = reference(request.param, seed=len(request.param))
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


@pytest.fixture
def folder(tmp_path):
    reference().save_pretrained(tmp_path)
    return tmp_path


def prompts(side):
    torch.manual_seed(5)
    ids, mask = torch.randint(3, 97, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    for row, length in enumerate((4, 9, 7)):
        mask[row, slice(0, 9 - length) if side == "left" else slice(length, 9)] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", ["lm_llama", "lm_qwen2", "lm_qwen3", "lm_smollm3"])
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers(name)
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model, length = load(tmp_path), known.inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
    valid = known.inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **EXACT)
    new = model.generate(**known.inputs, max_new_tokens=known.outputs["greedy"].shape[1] - length, eos_token_id=[])
    assert torch.equal(new, known.outputs["greedy"][:, length:])


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
    assert len(output.hidden_states) == len(expected.hidden_states)
    for mine, state in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[valid], state[valid], **EXACT)


def test_greedy_tokens_equal_transformers(pair):
    theirs, ours = pair
    inputs = prompts("left")
    expected = theirs.generate(**inputs, max_new_tokens=24)[:, 9:]
    assert torch.equal(ours.generate(**inputs, max_new_tokens=24), expected)


def test_gradients_equal_transformers(pair):
    theirs, ours = pair
    ids = torch.arange(3, 23)[None]
    theirs(input_ids=ids, labels=ids).loss.backward()
    ours(input_ids=ids, labels=ids).loss.backward()
    named = {name: weight.grad for name, weight in ours.model.named_parameters()}
    for name, gradient in ours.renaming.to_theirs(named).items():
        torch.testing.assert_close(gradient, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_given_positions_equal_transformers(pair):
    theirs, ours = pair
    inputs = {"input_ids": torch.arange(3, 11)[None], "position_ids": torch.tensor([[0, 1, 2, 9, 9, 20, 21, 50]])}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, **EXACT)


def test_sampled_tokens_equal_transformers_from_the_same_seed(folder):
    theirs, ours = reference(), load(folder)
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    for extra in ({}, {"repetition_penalty": 1.3}):
        torch.manual_seed(3)
        expected = theirs.generate(**prompts("left"), **settings, **extra)[:, 9:]
        torch.manual_seed(3)
        assert torch.equal(ours.generate(**prompts("left"), **settings, **extra), expected)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    theirs, ours = pair
    ours.save_pretrained(tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(again) is type(theirs)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert again.generation_config.eos_token_id == theirs.generation_config.eos_token_id


def test_shards_are_one_model(folder):
    whole = load(folder).model.state_dict()
    reference().save_pretrained(folder / "shards", max_shard_size="30KB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 2
    shards = load(folder / "shards").model.state_dict()
    assert all(torch.equal(whole[name], shards[name]) for name in whole)


def test_dtype_is_the_checkpoints_unless_told(folder):
    reference().to(torch.bfloat16).save_pretrained(folder)
    assert next(load(folder).parameters()).dtype == torch.bfloat16
    told = families.load(folder, read_config(folder), dtype=torch.float32)
    assert next(told.parameters()).dtype == torch.float32
    inputs = {"input_ids": torch.arange(3, 11)[None]}
    with torch.no_grad():
        near = load(folder)(**inputs).logits.float() - told(**inputs).logits
    assert near.abs().max() < 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("model.layers.1.mlp.up_proj.weight"), r"missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(5)}),
            r"mis-shaped: model\.norm\.weight \[5\] where \[48\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, told):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=told):
        load(folder)


def test_weights_that_old_checkpoints_carry_are_no_obstacle(folder):
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(state, folder / "model.safetensors")
    assert load(folder).model.language.depth == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}, "sliding-window"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "rotary positions of type 'yarn'",
        ),
        ({"hidden_act": "silly"}, "did you mean 'silu'"),
        ({"hidden_size": "wide"}, "config.json of a llama cannot be read: .*hidden_size"),
    ],
)
def test_configs_that_are_not_supported_are_told(folder, change, told):
    with pytest.raises(InputError, match=told):
        families.load(folder, read_config(folder) | change)


def test_missing_fields_are_the_references_defaults():
    given = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 9}
    settings = decoder.language_settings(given)
    assert (settings["heads"], settings["kv_heads"], settings["head_width"], settings["eps"]) == (32, 32, 128, 1e-6)
    assert settings["rope"]["base"] == 10000.0


def test_rules_stand_under_any_prefix():
    from foveal.weights.names import Renaming

    renaming = Renaming(decoder.language_rules(theirs_prefix="language_model.model.", head="language_model.lm_head"))
    ours = renaming.to_ours(
        {"language_model.model.norm.weight": torch.ones(1), "language_model.lm_head.weight": torch.ones(2)}
    )
    assert list(ours) == ["language.norm.weight", "head.map.weight"]
