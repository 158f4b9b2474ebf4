"""Where a data set lies, and what stands for what it holds."""

import io

import pytest

from foveal.data import places
from foveal.data.places import fingerprint

SIZE = 1 << 25


@pytest.fixture
def shard(tmp_path):
    file = tmp_path / "train.tar"
    with open(file, "wb") as content:
        content.truncate(SIZE)
    return file


@pytest.mark.parametrize("place", [0, (SIZE - (1 << 16)) // 3 + 1, SIZE - 1])
def test_a_shard_is_known_by_some_places_of_it(shard, place):
    before = fingerprint([shard])
    with open(shard, "r+b") as content:
        content.seek(place)
        content.write(b"1")
    assert fingerprint([shard]) != before


def test_a_shard_is_known_by_name_and_size_wherever_it_lies(shard, tmp_path):
    before = fingerprint([shard])
    (tmp_path / "moved").mkdir()
    moved = shard.rename(tmp_path / "moved" / "train.tar")
    assert fingerprint([moved]) == before
    with open(moved, "ab") as content:
        content.write(b"\0")
    longer = fingerprint([moved])
    assert len({before, longer, fingerprint([moved.rename(tmp_path / "val.tar")])}) == 3


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.arrow"])
def test_a_large_file_of_pictures_is_not_read_whole(shard, tmp_path, monkeypatch, name):
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            read.append(len(found := super().read(size)))
            return found

        def readinto(self, buffer):
            read.append(found := super().readinto(buffer))
            return found

    monkeypatch.setattr(places, "open", lambda file, mode: Counted(file), raising=False)
    fingerprint([shard.rename(tmp_path / name)])
    assert 0 < sum(read) <= 1 << 20


def test_lines_are_read_whole(shard, tmp_path):
    lines = shard.rename(tmp_path / "train.jsonl")
    before = fingerprint([lines])
    with open(lines, "r+b") as content:
        content.seek(SIZE // 2 - 1000)
        content.write(b"1")
    assert fingerprint([lines]) != before
