"""Checkpoints: whole or absent, the newest few."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.training.checkpoint import (
    Checkpoints,
    Progress,
    Snapshot,
    fingerprint,
    optimizer_of,
    put_optimizer,
    put_random_state,
    put_weights,
    random_state,
)


def snapshot(step):
    return Snapshot(
        progress=Progress(step=step, stage_step=step, seconds=1.5),
        weights={"map.weight": torch.full((2, 2), float(step))},
        optimizer={"0.step": torch.tensor(3.0)},
        random=(random_state(),),
        untouched="abc",
        recipe={"a": [1, None, "b"]},
    )


def test_what_is_written_reads_back_and_the_newest_stay(tmp_path):
    store = Checkpoints(folder=tmp_path / "checkpoints", keep=2)
    assert store.newest() is None
    places = [store.write(snapshot(step)) for step in (5, 10, 100)]
    assert store.found() == places[1:]
    read = store.read(store.newest())
    wanted = snapshot(100)
    assert (read.progress, read.untouched, read.recipe) == (wanted.progress, "abc", wanted.recipe)
    assert torch.equal(read.weights["map.weight"], wanted.weights["map.weight"])
    assert read.optimizer["0.step"].item() == 3.0


def test_a_damaged_checkpoint_says_so(tmp_path):
    store = Checkpoints(folder=tmp_path)
    place = store.write(snapshot(1))
    (place / "state.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"is damaged .* remove it"):
        store.read(place)
    sound = Checkpoints(folder=tmp_path / "other")
    place = sound.write(snapshot(1))
    for told in (b"{", b"[]", b"3", b"\xff\xfe", b'{"progress": 1}', b'{"progress": {"nope": 1}}'):
        (place / "state.json").write_bytes(told)
        with pytest.raises(InputError, match=r"is damaged .* remove it"):
            sound.read(place)


def test_an_interrupted_write_leaves_nothing_that_counts(tmp_path, monkeypatch):
    store = Checkpoints(folder=tmp_path)
    store.write(snapshot(1))
    monkeypatch.setattr("foveal.training.checkpoint.save_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write(snapshot(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001-stage-00"]
    (tmp_path / ".partial-x").mkdir()
    store.sweep()
    assert store.newest() == tmp_path / "step-00000001-stage-00"
    store.clear()
    assert store.newest() is None


def test_random_states_go_on_where_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    state = json.loads(json.dumps(random_state()))
    first = draw()
    assert draw() != first
    put_random_state(state)
    assert draw() == first


def test_an_optimizer_goes_on_where_it_was():
    def model():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    def step(net, adam):
        net(torch.ones(1, 3)).square().sum().backward()
        adam.step()
        adam.zero_grad()

    one, other = model(), model()
    adams = [torch.optim.AdamW(net.parameters(), lr=0.1) for net in (one, other)]
    step(one, adams[0])
    put_weights(other, {name: value.clone() for name, value in one.state_dict().items()})
    put_optimizer(adams[1], {name: value.clone() for name, value in optimizer_of(adams[0]).items()})
    for net, adam in zip((one, other), adams, strict=True):
        step(net, adam)
    assert torch.equal(one.weight, other.weight)


def test_weights_must_fit():
    with pytest.raises(InputError, match=r"holds weight of shape \(3, 3\), the model \(2, 3\)"):
        put_weights(nn.Linear(3, 2), {"weight": torch.zeros(3, 3)})
    with pytest.raises(InputError, match="the model nothing"):
        put_weights(nn.Linear(3, 2), {"other": torch.zeros(3, 3)})


def test_a_fingerprint_knows_every_bit():
    tensors = {"a": torch.zeros(2, 2), "b": torch.ones(3, dtype=torch.bfloat16)}
    same = {name: tensors[name].clone() for name in reversed(tensors)}
    assert fingerprint(tensors) == fingerprint(same)
    assert fingerprint(tensors) != fingerprint({**tensors, "a": torch.zeros(4)})
    assert fingerprint(tensors) != fingerprint({**tensors, "a": -torch.zeros(2, 2)})
