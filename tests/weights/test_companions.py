"""Which files go with a checkpoint's weights, and what is told where they cannot."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

import foveal
from foveal.core.errors import InputError
from foveal.preprocess.words import word_tokenizer
from foveal.weights.companions import carry, complete
from tests.weights.test_llava import reference

THEIRS = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "added_tokens.json", "special_tokens_map.json", "normalizer.json", "chat_template.jinja"),
    *("chat_template.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("processing_x.py", "image_processing_x.py", "tokenization_x.py", "configuration_x.py"),
    *("qformer_tokenizer/vocab.txt", "additional_chat_templates/tool.jinja"),
)
STRANGE = (
    *(
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "train.json",
        "notes.txt",
        "modeling_x.py",
    ),
    *("modeling_x.py", "trainer_state.json", "requirements.txt", "qformer_tokenizer/notes.txt", "other/tokenizer.json"),
)


@pytest.fixture
def source(tmp_path):
    for name in (*THEIRS, *STRANGE):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(name)
    return tmp_path / "source"


def test_what_a_processor_reads_is_carried_and_nothing_else(source, tmp_path):
    carry(source, tmp_path / "there")
    found = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert found == set(THEIRS)
    assert all((tmp_path / "there" / name).read_text() == name for name in THEIRS)


def test_a_file_that_cannot_be_read_is_told_as_such(source, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        with pytest.raises(InputError, match=r"cannot read .*source.*: Permission denied; mend it, or take it away"):
            carry(source, tmp_path / "there")
    (tmp_path / "FILE").touch()
    with pytest.raises(InputError, match=r"cannot write .*FILE.*; choose another place"):
        carry(source, tmp_path / "FILE")


def test_it_is_complete_with_words_and_for_who_sees_with_a_look(tmp_path):
    assert not complete(None, sees=False) and not complete(tmp_path / "gone", sees=False)
    assert not complete(tmp_path, sees=False)
    (tmp_path / "tokenizer.json").touch()
    assert complete(tmp_path, sees=False) and not complete(tmp_path, sees=True)
    (tmp_path / "preprocessor_config.json").touch()
    assert complete(tmp_path, sees=True)


def test_a_processor_that_is_refused_is_not_left_out_in_silence(tmp_path):
    reference(3).save_pretrained(tmp_path / "there")
    model = foveal.load(tmp_path / "there")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "weights")  # it came without
    word_tokenizer(["the fox"], special=["<image>"]).save_pretrained(tmp_path / "there")
    model.save(tmp_path / "words")  # with words and no look, as it came
    look = {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 12}}
    (tmp_path / "there" / "preprocessor_config.json").write_text(json.dumps(look))
    with pytest.warns(UserWarning, match="the run is saved without a processor: .*ViltImageProcessor") as told:
        model.save(tmp_path / "run")
    assert len(told) == 1 and "\n" not in str(told[0].message)
    shutil.rmtree(tmp_path / "there")
    assert foveal.load(tmp_path / "run").config == model.config
