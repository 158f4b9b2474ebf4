"""Arguments and settings of a checkpoint's wrapper, on a model of one layer."""

import pickle
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file

import foveal
from foveal.core.errors import InputError
from foveal.decode.sampling import greedy
from foveal.preprocess.processor import Processor
from foveal.preprocess.words import word_tokenizer
from foveal.weights import families
from foveal.weights.files import read_checkpoint, read_config, write_json

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
    return families.load(folder, read_config(folder))


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
    stopping = families.load(folder, config)
    first = free.index(free[3])
    assert stopping.generate(IDS, max_new_tokens=10)[0].tolist() == free[: first + 1]
    (folder / "generation_config.json").unlink()
    assert families.load(folder, config | {"eos_token_id": free[3]}).generation["eos_token_id"] == free[3]


def test_twenty_tokens_unless_told(model):
    assert model.generate(IDS, eos_token_id=[]).shape == (1, 20)


def test_the_checkpoints_own_sampling_is_followed(folder):
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 5.0, "top_k": 30})
    sampling = families.load(folder, read_config(folder))
    (folder / "generation_config.json").unlink()
    torch.manual_seed(0)
    drawn = {tuple(sampling.generate(IDS, max_new_tokens=6)[0].tolist()) for _ in range(5)}
    assert len(drawn) > 1
    assert len({tuple(sampling.generate(IDS, max_new_tokens=6, do_sample=False)[0].tolist()) for _ in range(3)}) == 1


@pytest.fixture
def talking(folder, tmp_path):
    """The checkpoint with words, and generation settings as they are given."""
    shutil.copytree(folder, tmp_path / "words")
    word_tokenizer(["where is the red fox in the wood"]).save_pretrained(tmp_path / "words")

    def load(**generation):
        write_json(tmp_path / "words" / "generation_config.json", generation)
        return families.load(tmp_path / "words", read_config(tmp_path / "words"))

    return load


def test_an_answer_is_written_as_the_checkpoint_says(talking):
    def both(model, **settings):
        answer = model.answer(None, "where is the fox", **settings)
        ids = model.processor.prompt([(None, "where is the fox")], plan=model.model.plan).input_ids
        return answer, model.generate(ids, **{"max_new_tokens": 64, **settings} if settings else {})[0].tolist()

    free, _ = both(talking(eos_token_id=[]), max_new_tokens=8)
    assert len(free.token_ids) == 8
    own = {"eos_token_id": [29, free.token_ids[2]], "max_new_tokens": 6}
    for settings in ({}, {"repetition_penalty": 1.7}, {"repetition_penalty": 1.7, "eos_token_id": []}):
        answer, generated = both(talking(**{**own, **settings}))
        assert answer.token_ids == tuple(generated)
    assert answer.token_ids != free.token_ids[:6] and len(answer.token_ids) == 6
    stopping = talking(**own)
    *_, last = stopping.stream_answer(None, "where is the fox", max_new_tokens=8)
    assert last.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[2]) + 1]
    assert stopping.answer(None, "where is the fox", stop_ids=(), max_new_tokens=8).token_ids == free.token_ids


def test_whoever_asks_the_processor_ends_where_the_checkpoint_does(talking, tmp_path):
    ends = talking(eos_token_id=[29, 7]).processor.stop_ids
    assert set(ends) == {29, 7, *talking(eos_token_id=[]).processor.stop_ids}
    run = talking(eos_token_id=[29, 7]).save(tmp_path / "run")
    assert Processor.load(run).stop_ids == ends


def test_a_run_without_ends_of_its_own_stops_where_it_began(talking, tmp_path):
    began = talking(eos_token_id=[29, 7])
    path = began.save(tmp_path / "run") / "config.yaml"
    described = yaml.safe_load(path.read_text())
    assert described["processor"].pop("ends") == [7, 29]
    path.write_text(yaml.safe_dump(described))
    run = foveal.load(path.parent)
    assert run.stops() == (29, 7) and run.processor.stop_ids == began.processor.stop_ids
    copied = pickle.loads(pickle.dumps(run))  # with the words that it holds
    assert copied.answer(None, "the fox", max_new_tokens=2) == run.answer(None, "the fox", max_new_tokens=2)


def test_an_end_that_is_changed_later_is_heeded_by_whoever_asks(talking):
    model = talking(eos_token_id=[29])
    free = model.answer(None, "where is the fox", max_new_tokens=8, stop_ids=()).token_ids
    before = model.processor.stop_ids
    model.generation["eos_token_id"] = free[2]
    assert model.answer(None, "where is the fox", max_new_tokens=8).token_ids == free[: free.index(free[2]) + 1]
    assert free[2] in model.processor.stop_ids
    model.generation["eos_token_id"] = [29]
    assert model.processor.stop_ids == before
    model.processor = other = talking(eos_token_id=[]).processor
    assert model.processor is other and other.stop_ids == before


def test_a_context_that_the_config_leaves_out_is_the_references(talking):
    folder = talking().beside
    config = read_config(folder)
    del config["max_position_embeddings"]
    for kind, places in (("llama", 2048), ("mistral", 131072)):
        write_json(folder / "config.json", {**config, "model_type": kind})
        asked = families.load(folder, read_config(folder))
        assert asked.processor.config.context == asked.model.language.context == places


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": {"": "bfloat16", "text_config": "float32"}}, torch.bfloat16),
        ({"dtype": {"text_config": "bfloat16"}}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_weights_in_several_dtypes_take_that_of_the_config_or_of_most_of_them(talking, said, wanted):
    folder = talking().beside
    config, state = read_config(folder), read_checkpoint(folder)
    config.pop("dtype")
    some = {name: weight.bfloat16() if "norm" in name else weight for name, weight in state.items()}
    save_file(some, folder / "model.safetensors")
    asked = families.load(folder, {**config, **said})
    assert {weight.dtype for weight in asked.parameters()} == {wanted}
    assert asked.answer(None, "where is the fox", max_new_tokens=2).token_ids
    save_file(state, folder / "model.safetensors")
    whole = families.load(folder, {**config, **said})  # one dtype stays as it comes
    assert {weight.dtype for weight in whole.parameters()} == {torch.float32}


def test_an_answer_is_drawn_where_the_checkpoint_draws(talking):
    drawing = talking(do_sample=True, temperature=5.0, top_k=30, eos_token_id=[])
    torch.manual_seed(0)
    drawn = {drawing.answer(None, "where is the fox", max_new_tokens=6).token_ids for _ in range(5)}
    assert len(drawn) > 1
    best = {drawing.answer(None, "the fox", max_new_tokens=6, sampling=greedy).token_ids for _ in range(3)}
    assert len(best) == 1


def test_a_way_of_writing_that_is_not_there_is_told(talking):
    beams = talking(num_beams=4)
    with pytest.raises(InputError, match=r"asks for num_beams=4, .*give answer a sampling"):
        beams.answer(None, "where is the fox")
    assert beams.answer(None, "where is the fox", sampling=greedy, max_new_tokens=2).token_ids


@pytest.mark.parametrize(
    "own",
    [
        {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
        {"attn_implementation": "sdpa", "trust_remote_code": True, "disable_compile": True, "low_memory": True},
        {"multimodal_max_length": 32768, "chat_format": "chatml", "max_new_tokens": None, "guidance_scale": 1.0},
        {"num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant", "renormalize_logits": True},
        {"min_p": 0.05, "typical_p": 0.9, "do_sample": False},
    ],
)
def test_settings_that_change_no_answer_do_not_stop_one(talking, own):
    plain, asked = talking(eos_token_id=[]), talking(eos_token_id=[], **own)
    said = asked.answer(None, "where is the fox", max_new_tokens=4)
    assert said.token_ids == plain.answer(None, "where is the fox", max_new_tokens=4).token_ids
    assert torch.equal(asked.generate(IDS, max_new_tokens=4), plain.generate(IDS, max_new_tokens=4))


@pytest.mark.parametrize(
    "own",
    [
        *({"min_p": 0.05, "do_sample": True}, {"bad_words_ids": [[7]]}, {"no_repeat_ngram_size": 3}),
        *({"guidance_scale": 1.5}, {"min_new_tokens": 2}, {"stop_strings": ["fox"]}, {"penalty_alpha": 0.6}),
    ],
)
def test_settings_of_the_checkpoint_that_would_change_an_answer_are_told(talking, own):
    with pytest.raises(InputError, match=next(iter(own))):
        talking(**own).answer(None, "where is the fox")


def test_settings_of_the_checkpoint_that_are_no_numbers_are_told(talking):
    with pytest.raises(InputError, match="eos_token_id is '</s>'; give the number of a token"):
        talking(eos_token_id="</s>")
    with pytest.raises(InputError, match="temperature is 'hot'; give a number"):
        talking(do_sample=True, temperature="hot").answer(None, "where is the fox")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0; give a positive number, or sample greedily"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; give a number above 0"),
        ({"max_new_tokens": 3.0}, "max_new_tokens is 3.0; give a whole number"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0; give"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan; give"),
    ],
)
def test_numbers_that_the_reference_refuses_are_told(model, given, told):
    with pytest.raises(InputError, match=told):
        model.generate(IDS, **given)


def test_the_known_settings_are_those_that_may_be_given(model):
    with pytest.raises(InputError) as told:
        model.generate(IDS, num_beams=3)
    assert "repetition_penalty" in str(told.value) and "attention_mask" in str(told.value)
    assert "incremental_state" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"temprature": 1}, r"unknown setting of answer 'temprature'; .*sampling=foveal.decode.sampling.sampler\("),
        ({"do_sample": True}, "unknown setting of answer 'do_sample'; .*sampling="),
        ({"bugdet": 5}, "did you mean 'budget'"),
    ],
)
def test_settings_of_an_answer_that_are_none_are_told(talking, given, told):
    with pytest.raises(InputError, match=told):
        talking().answer(None, "where is the fox", **given)


def test_written_back_both_names_of_the_dtype_tell_what_is_there(folder, tmp_path):
    config = {**read_config(folder), "torch_dtype": "bfloat16"}
    families.load(folder, config, dtype=torch.float32).save_pretrained(tmp_path / "again")
    told = read_config(tmp_path / "again")
    assert told["dtype"] == told["torch_dtype"] == "float32"
