import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from foveal.preprocess.words import SPECIAL, word_tokenizer

TEXTS = ["What is next to the dog?", "Where is the RED apple, or t-rex?", "It's in the top left.", "yes no 1 2 3"]
PHRASES = ["Red Apple", "top left", "t-rex", "cat"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS, phrases=PHRASES)


def tokens(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_words_punctuation_and_phrases(tokenizer):
    assert tokens(tokenizer, "What is next to the Red  apple?")[:5] == ["what", "is", "next", "to", "the"]
    assert tokens(tokenizer, "the red apple, top left.") == ["the", "red apple", ",", "top left", "."]
    assert tokens(tokenizer, "a T-Rex, cat") == ["<unk>", "t-rex", ",", "cat"]
    assert tokens(tokenizer, "red applesauce") == ["red", "<unk>"]
    assert tokens(tokenizer, "<user>red<eos>") == ["<user>", "red", "<eos>"]


def test_every_token_is_one_entry_and_specials_come_first(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[token] for token in SPECIAL] == list(range(len(SPECIAL)))
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert tokenizer.pad_token_id == 0


def test_text_comes_back_as_one_writes_it(tokenizer):
    for text in ("what is next to the dog?", "the red apple, top left.", "1 2 3", "yes"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rare_words_can_be_left_out():
    tokenizer = word_tokenizer(["a b", "a c"], phrases=["d"], least=2)
    assert set(tokenizer.get_vocab()) == {*SPECIAL, "a", "d"}


def test_saved_and_loaded_as_any_other(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "What is the red apple in the top left? unseen<eos>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@given(st.lists(st.sampled_from(["what", "red apple", "dog", "top left", "yes", "2"]), min_size=1, max_size=6))
def test_known_words_survive_the_round_trip(words):
    tokenizer = word_tokenizer(TEXTS, phrases=PHRASES)
    ids = tokenizer(" ".join(words))["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer.decode(ids) == " ".join(words)


def test_special_words_that_are_named_again_leave_no_gap():
    made = word_tokenizer(["a cat"], special=["<image>", "<frame>", "<frame>", "<mask>"], mask=True)
    assert sorted(made.get_vocab().values()) == list(range(len(made)))
    assert made("<frame>")["input_ids"] == [made.get_vocab()["<frame>"]] and made.mask_token == "<mask>"
