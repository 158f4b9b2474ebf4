import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from foveal.training.config import Stage
from foveal.training.ledger import Ledger, Steps, held, held_by, storages, weights_of, whole_at_once
from foveal.training.objective import objective
from foveal.training.parts import learning, optimizer, recomputed
from foveal.training.processes import accelerator
from foveal.training.step import Scored
from tests.tiny import tiny_run

WORDS = ["what colour is it", "red green blue"]


@pytest.fixture
def tiny():
    """A model, and a batch of three pictures with a question and an answer each."""
    from PIL import Image

    from foveal.core.example import Example

    run = tiny_run(WORDS)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is it"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    made = [Example(id=str(n), images=(Image.new("RGB", (16, 16)),), messages=(asked, said)) for n in range(3)]
    return run.model, run.processor.training(made, plan=run.model.plan)


def stepping(model, chosen, stage):
    made = accelerator("cpu")
    scored = Scored(model, objective(stage.objective), precision=stage.precision)
    scored, adam = made.prepare(scored, optimizer(model, chosen, stage))
    return Steps(accelerator=made, scored=scored, adam=adam, chosen=chosen, clip=stage.clip)


def counted(tiny, *, accumulate=1, waiting=1, **settings):
    model, batch = tiny
    stage = Stage(steps=1, **settings)
    with recomputed(model.layers, wanted=stage.checkpointing), learning(model, stage) as chosen:
        return held(stepping(model, chosen, stage), batch, waiting=waiting, accumulate=accumulate)


def by_hand(tiny, **settings):
    """Bytes that the backward pass keeps, each storage once, without weights, their copies and the batch."""
    model, batch = tiny
    kept, own = {}, {tensor.untyped_storage().data_ptr() for tensor in weights_of(model)}
    own |= {storage.data_ptr() for storage in storages(batch)}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    stage = Stage(steps=1, **settings)
    with learning(model, stage), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _, *_ = Scored(model, objective(stage.objective), precision=stage.precision)(batch)
        loss.backward()
    return sum(kept.values())


def test_storages_are_counted_once_while_they_are_there():
    with Ledger() as ledger:
        kept = torch.zeros(10)
        view, other = kept[2:], kept + 1
        assert ledger.live == 80
        del other
        assert ledger.live == 40
        del kept
        assert ledger.live == 40  # the view holds it
        del view
        assert (ledger.live, ledger.highest(), ledger.highest()) == (0, 80, 0)


def test_what_was_there_before_does_not_count_and_copies_of_weights_are_told_apart():
    weight = nn.Parameter(torch.zeros(4, 8))
    with Ledger([weight]) as ledger:
        weight.data.add_(1)
        half, other = weight.bfloat16(), torch.ones(2).bfloat16()
        assert (ledger.live, ledger.casts) == (64 + 8 + 4, 64) or (ledger.live, ledger.casts) == (64 + 4, 64)
        del half, other
    assert ledger.casts == 0


@pytest.mark.parametrize("train", [("connector",), ("connector", "language", "head"), ("vision", "connector")])
def test_activations_are_those_that_a_step_by_hand_keeps(tiny, train):
    found, kept = counted(tiny, train=train), by_hand(tiny, train=train)
    assert 0 <= found.activations - kept <= 64  # the loss and its count, which nothing keeps for the backward pass


def test_copies_in_half_precision_are_no_activations(tiny):
    whole, half = counted(tiny), counted(tiny, precision="bf16")
    linear = sum(part.weight.numel() for part in tiny[0].language.modules() if isinstance(part, nn.Linear))
    assert whole.casts == 0 and half.casts >= 2 * linear
    assert half.activations < whole.activations


def test_a_frozen_encoder_keeps_nothing(tiny):
    model, batch = tiny
    frozen, learns = counted(tiny), counted(tiny, train=("vision", "connector", "language", "head"))
    assert learns.activations > frozen.activations
    with torch.no_grad():
        seen = model.vision(batch.visual)
    ready = counted((model, replace(batch, visual=seen)))
    assert frozen.activations == ready.activations + held_by(seen.features)


def test_recomputed_layers_keep_less(tiny):
    assert counted(tiny, checkpointing=True).activations < counted(tiny).activations


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("muon", 1)])
def test_gradients_and_state_are_those_of_what_learns(tiny, name, moments):
    model, _ = tiny
    found = counted(tiny, train=("language.layers",), optimizer=name)
    learned = [parameter for parameter in model.language.layers.parameters()]
    count = sum(parameter.numel() for parameter in learned)
    assert found.gradients == 4 * count
    other = sum(parameter.numel() for parameter in learned if parameter.ndim != 2)
    most = 4 * (2 * count if name == "adamw" else moments * (count - other) + 2 * other)
    assert most <= found.optimizer <= most + 8 * len(learned)  # and the number of steps of each


def test_micro_batches_that_add_up_hold_the_same_but_for_gradients_that_stay(tiny):
    one, four = counted(tiny), counted(tiny, accumulate=4)
    assert vars(four) == {**vars(one), "turns": 0, "temporary": four.temporary}
    assert one.turns > 0 and abs(one.temporary - four.temporary) <= one.turns
    assert counted(tiny, waiting=3).batches == 3 * one.batches == 3 * held_by(tiny[1])


def test_no_weight_changes(tiny):
    model, _ = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted(tiny, optimizer="muon")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_no_layer_is_whole_beside_the_largest_of_them():
    layers = nn.ModuleList(nn.Sequential(*(nn.Linear(4, 4) for _ in range(number))) for number in (1, 2, 1))
    model = nn.ModuleDict({"layers": layers, "words": nn.Embedding(5, 4)})
    assert held_by(weights_of(model)) == 4 * 80 + 80
    assert whole_at_once(model, list(layers)) == 2 * 80 + 80
    assert whole_at_once(model, list(layers)[:1]) == whole_at_once(model, []) == 4 * 80 + 80


def test_nothing_of_a_ledger_stays_behind():
    weight = nn.Parameter(torch.zeros(4))
    with Ledger([weight]) as ledger:
        weight * 2
    there = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert there() is None
