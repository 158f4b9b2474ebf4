"""Arguments and settings of a checkpoint's wrapper, on a model of one layer."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.weights import decoder
from foveal.weights.files import read_config, write_json

IDS = torch.arange(3, 11)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("checkpoint")
    config = LlamaConfig(vocab_size=30, max_position_embeddings=64, initializer_range=0.5, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return decoder.load(folder, read_config(folder))


def test_harmless_arguments_are_taken(model):
    given = {"use_cache": True, "return_dict": True, "output_attentions": False, "past_key_values": None}
    with torch.no_grad():
        assert torch.equal(model(IDS, **given, logits_to_keep=0).logits, model(input_ids=IDS).logits)
    plain = model.generate(IDS, max_new_tokens=3)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, num_beams=1, do_sample=False, use_cache=True), plain)


def test_a_length_of_all_counts_the_prompt(model):
    free = model.generate(IDS, max_new_tokens=30, eos_token_id=[])
    assert torch.equal(model.generate(IDS, max_length=38, eos_token_id=[]), free)
    assert model.generate(IDS, max_length=38, max_new_tokens=2, eos_token_id=[]).shape == (1, 2)  # as the reference
    assert model.generate(IDS, max_length=9, eos_token_id=[]).shape == (1, 1)
    with pytest.raises(InputError, match="a max_length of 8 for a prompt of 8 tokens; raise it"):
        model.generate(IDS, max_length=8)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"attention_masks": torch.ones(1, 8)}, "did you mean 'attention_mask'"),
        ({"output_attentions": True}, "output_attentions=True is not supported"),
        ({"inputs_embeds": torch.ones(1, 8, 32)}, "inputs_embeds"),
        ({"pixel_values": torch.ones(1, 3, 8, 8)}, "unknown argument 'pixel_values'"),
        ({"attention_mask": torch.ones(2, 3)}, r"\[2, 3\] attention_mask but \[1, 8\] input_ids; give each"),
        ({"labels": IDS[:, 1:]}, r"\[1, 7\] labels but \[1, 8\] input_ids; give each"),
    ],
)
def test_other_arguments_are_told(model, given, told):
    with pytest.raises(InputError, match=told):
        model(IDS, **given)


@pytest.mark.parametrize("word", [30, -1])
def test_words_that_the_model_has_not_are_told(model, word):
    with pytest.raises(InputError, match=rf"input_ids from .*{word}.* but the model has 30 words"):
        model(torch.tensor([[5, word]]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_new_token": 5}, "did you mean 'max_new_tokens'"),
        ({"attn_mask": torch.ones(1, 8)}, "did you mean 'attention_mask'"),
        ({"num_beams": 4}, "unknown generation setting 'num_beams'"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 57}, "prompt of 8 tokens and 57 new ones do not fit the context of 64"),
        ({"do_sample": True, "temperature": -1.0}, "temperature"),
    ],
)
def test_settings_that_would_change_the_answer_are_told(model, given, told):
    with pytest.raises(InputError, match=told):
        model.generate(IDS, **given)


def test_stop_tokens_come_from_the_checkpoint_one_or_several(folder, model):
    free = model.generate(IDS, max_new_tokens=10, eos_token_id=[])[0].tolist()
    config = read_config(folder)
    write_json(folder / "generation_config.json", {"eos_token_id": [29, free[3]], "pad_token_id": 0})
    stopping = decoder.load(folder, config)
    first = free.index(free[3])
    assert stopping.generate(IDS, max_new_tokens=10)[0].tolist() == free[: first + 1]
    (folder / "generation_config.json").unlink()
    assert decoder.load(folder, config | {"eos_token_id": free[3]}).generation["eos_token_id"] == free[3]


def test_twenty_tokens_unless_told(model):
    assert model.generate(IDS, eos_token_id=[]).shape == (1, 20)


def test_the_checkpoints_own_sampling_is_followed(folder):
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 5.0, "top_k": 30})
    sampling = decoder.load(folder, read_config(folder))
    (folder / "generation_config.json").unlink()
    torch.manual_seed(0)
    drawn = {tuple(sampling.generate(IDS, max_new_tokens=6)[0].tolist()) for _ in range(5)}
    assert len(drawn) > 1
    assert len({tuple(sampling.generate(IDS, max_new_tokens=6, do_sample=False)[0].tolist()) for _ in range(3)}) == 1
