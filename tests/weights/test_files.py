"""Weight files: whole, in shards, pickled; broken ones are told apart from absent ones."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.weights import files
from foveal.weights.files import read_checkpoint, write_checkpoint


def weights(count=5):
    return {f"layer.{i}.weight": torch.randn(4, i + 1) for i in range(count)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 400))
def test_no_shard_is_larger_than_asked_unless_one_weight_is(sizes, most):
    parts = files._divided({str(i): torch.zeros(size) for i, size in enumerate(sizes)}, most)
    assert [name for part in parts for name in part] == [str(i) for i in range(len(sizes))]
    assert all(len(part) == 1 or sum(weight.nbytes for weight in part.values()) <= most for part in parts if part)


@pytest.mark.parametrize("most", [10**9, 60])
def test_what_is_written_is_read(tmp_path, most):
    state = weights() | {"half": torch.randn(3).bfloat16(), "count": torch.tensor(7)}
    write_checkpoint(tmp_path / "new", state, max_shard_bytes=most)
    assert same(read_checkpoint(tmp_path / "new"), state)
    assert (tmp_path / "new" / files.INDEX).exists() == (most == 60)


@pytest.mark.parametrize("first", [10**9, 60])
@pytest.mark.parametrize("second", [10**9, 60])
def test_the_new_replaces_the_old_and_leaves_nothing_of_it(tmp_path, first, second):
    write_checkpoint(tmp_path, weights(), max_shard_bytes=first)
    state = weights(3)
    write_checkpoint(tmp_path, state, max_shard_bytes=second)
    assert same(read_checkpoint(tmp_path), state)
    places = set(json.loads((tmp_path / files.INDEX).read_text())["weight_map"].values()) if second == 60 else set()
    assert {path.name for path in tmp_path.iterdir()} == ({*places, files.INDEX} if second == 60 else {files.WHOLE})


@pytest.mark.parametrize("most", [10**9, 60])
def test_a_full_disk_leaves_the_old_weights(tmp_path, most, monkeypatch):
    old = weights()
    write_checkpoint(tmp_path, old, max_shard_bytes=60)
    before = sorted(path.name for path in tmp_path.iterdir())
    saved = files.save_file
    written = []

    def save_file(state, path, metadata):
        saved(state, path, metadata=metadata)
        written.append(path)
        if len(written) == (2 if most == 60 else 1):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", save_file)
    with pytest.raises(InputError, match="No space left"):
        write_checkpoint(tmp_path, weights(3), max_shard_bytes=most)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert same(read_checkpoint(tmp_path), old)


def test_a_tied_weight_is_written_once(tmp_path):
    table = torch.randn(5, 3)
    write_checkpoint(tmp_path, {"table": table, "head": table, "copy": table.clone()})
    assert set(read_checkpoint(tmp_path)) == {"table", "copy"}


def test_pickled_files_whole_and_in_shards(tmp_path):
    state = weights(2)
    torch.save(state, tmp_path / files.PICKLED)
    assert same(read_checkpoint(tmp_path), state)
    (tmp_path / files.PICKLED).rename(tmp_path / "pytorch_model-00001-of-00001.bin")
    places = dict.fromkeys(state, "pytorch_model-00001-of-00001.bin")
    (tmp_path / files.PICKLED_INDEX).write_text(json.dumps({"weight_map": places}))
    assert same(read_checkpoint(tmp_path), state)


class Harmful:
    """Pickles into a call."""

    def __reduce__(self):
        return os.getcwd, ()


def test_every_kind_of_damage_is_told(tmp_path):
    def told(match):
        with pytest.raises(InputError, match=match):
            read_checkpoint(tmp_path)

    with pytest.raises(InputError, match="no checkpoint directory"):
        read_checkpoint(tmp_path / "absent")
    told("holds no weights")
    torch.save({"weight": Harmful()}, tmp_path / files.PICKLED)
    told("more than tensors")
    torch.save([torch.zeros(2)], tmp_path / files.PICKLED)
    told("not a state dict")
    (tmp_path / files.PICKLED).write_bytes(b"")
    told("truncated")
    (tmp_path / files.PICKLED).write_bytes(b"hello")
    told("is no weight file")
    torch.save(weights(), tmp_path / files.PICKLED)
    (tmp_path / files.PICKLED).write_bytes((tmp_path / files.PICKLED).read_bytes()[:-200])
    told("truncated")
    write_checkpoint(tmp_path, weights(), max_shard_bytes=60)
    shard = sorted(tmp_path.glob("model-*"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    told(f"{shard.name}.*truncated")
    shard.unlink()
    told(f"names the shard {shard.name}")
    shard.mkdir()
    told(f"names the shard {shard.name}")
    shard.rmdir()
    write_checkpoint(tmp_path / "other", {"stranger": torch.zeros(1)})
    (tmp_path / "other" / files.WHOLE).rename(shard)
    told("promises layer")
    (tmp_path / files.INDEX).write_text("{}")
    told("no index of shards")


def test_a_pickled_file_of_any_name_is_read_where_it_is_the_only_one(tmp_path):
    state = weights()
    torch.save(state, tmp_path / "pytorch_model_9.bin")
    assert same(read_checkpoint(tmp_path), state)
    torch.save(state, tmp_path / "pytorch_model_8.bin")
    with pytest.raises(InputError, match="holds no weights"):
        read_checkpoint(tmp_path)


def test_what_may_not_be_read_is_not_said_to_be_missing(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, weights(1))

    def guarded(self, *given, **named):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", guarded)  # whoever runs the tests may be one that nothing is kept from
    with pytest.raises(InputError, match=r"model.safetensors: no permission to read it; change its mode or its owner"):
        read_checkpoint(tmp_path)


def test_a_directory_is_no_weight_file(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(InputError, match="is a directory and no weight file; put the file there"):
        read_checkpoint(tmp_path)
