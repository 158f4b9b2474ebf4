"""Checkpoints whose words lie in other files than tokenizer.json: loaded as transformers loads them, or told."""

import io
import json

import pytest
from transformers import AutoTokenizer

from foveal.core.errors import InputError
from foveal.preprocess.chat import Span
from foveal.preprocess.processor import Processor
from foveal.preprocess.store import tokenizer
from foveal.preprocess.tokens import Coder
from tests.preprocess.conftest import TEXTS, byte_level

FEW = [
    *TEXTS,
    " caf\u00e9 \u4f60\u597d\n\n a  b \U0001f600\U0001f469\u200d\U0001f467",
    "<|im_start|>user\nhi<|im_end|>",
]
NAMED = {
    "gpt2": {"tokenizer_class": "GPT2Tokenizer"},
    "opt": {
        **{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "<|endoftext|>"},
        **{"eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
    },
    "qwen2": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
}


def put(folder, kind, named, **files):
    for name, content in {"config": {"model_type": kind}, "tokenizer_config": named}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())


def ids(given, text):
    return Coder(given, "<image>")([Span(text=text)])[0].tolist()


@pytest.mark.parametrize("kind", NAMED)
def test_words_and_merges_apart(tmp_path, kind):
    model = json.loads(byte_level().backend_tokenizer.to_str())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    put(tmp_path, kind, NAMED[kind], vocab_json=json.dumps(model["vocab"]), merges_txt=merges)
    made, theirs = Processor.from_huggingface(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert made.tokenizer.eos_token_id == theirs.eos_token_id is not None
    for text in FEW:
        wanted = theirs(text)["input_ids"]
        assert ids(made.tokenizer, text) == wanted
        assert made.text(wanted) == theirs.decode(wanted, skip_special_tokens=True).strip()


def test_words_line_by_line(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "cat", "##s", "in", "the", "top", "?"]
    put(tmp_path, "bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, vocab_txt="\n".join(words))
    made, theirs = tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ids(made, text) == theirs(text)["input_ids"][:-1]  # texts that are told on have no [SEP]


@pytest.mark.parametrize("named", [None, {"model_max_length": 99}])
def test_the_kind_of_model_tells_the_ends_that_no_file_names(tmp_path, named):
    byte_level().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    put(tmp_path, "qwen2", named)
    made, theirs = Processor.from_huggingface(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert made.tokenizer.eos_token == theirs.eos_token == "<|endoftext|>"
    assert made.stop_ids == (theirs.eos_token_id,)
    (tmp_path / "config.json").unlink()
    assert tokenizer(tmp_path).eos_token is None


@pytest.mark.parametrize("name", ["tokenizer_model", "spiece_model"])
def test_pieces_without_their_reader_are_told(tmp_path, monkeypatch, name):
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: False)
    kind = {"tokenizer_model": ("llama", "LlamaTokenizer"), "spiece_model": ("t5", "T5Tokenizer")}[name]
    put(tmp_path, kind[0], {"tokenizer_class": kind[1]}, **{name: b"\n\x0e\n\x05<un"})
    told = f"has its words in {name.replace('_', '.')} alone, .* pip install sentencepiece protobuf, or add its tok"
    with pytest.raises(InputError, match=told):
        tokenizer(tmp_path)
    put(tmp_path, kind[0], {"tokenizer_class": kind[1]}, **{name: b"IQ== 0\n"})
    with pytest.raises(InputError, match=r"holds no tokenizer that loads .*; add its tokenizer\.json"):
        tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "TokenizersBackend"])
def test_no_code_of_a_checkpoint_is_run_nor_asked_for(tmp_path, monkeypatch, capsys, kind):
    byte_level().save_pretrained(tmp_path)
    put(tmp_path, "ovis", {"tokenizer_class": kind, "eos_token": "<|im_end|>"})
    described = {"model_type": "ovis", "auto_map": {"AutoConfig": "configuration_ovis.OvisConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "configuration_ovis.py").write_text("raise SystemExit('run')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert tokenizer(tmp_path).eos_token == "<|im_end|>"
    assert "custom code" not in capsys.readouterr().out
