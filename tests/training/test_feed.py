"""Batches ahead of their step: none twice, none lost, errors told where they are waited for."""

import threading
import time

import numpy as np
import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.machine import cores
from foveal.core.types import Batch
from foveal.training.feed import Feed, ahead, check_workers
from foveal.training.order import Order


def feed(collate=None, **settings):
    data = [Example(id=str(i), messages=()) for i in range(24)]
    order = Order([(i,) for i in range(24)], np.ones(24), seed=(0,))
    return Feed(data=data, order=order, collate=collate or plain, batch_size=2, **settings)


def plain(groups, place):
    ids = torch.tensor([[int(example.id) for example in group] for group in groups])
    yes = torch.ones_like(ids).bool()
    return Batch(input_ids=ids, valid=yes, prompt=yes, image_slot=-torch.ones_like(ids))


def test_processes_share_an_epoch_without_overlap_and_in_the_order_of_one_alone():
    alone = [feed()[number].ids for number in range(12)]
    shares = [[feed(rank=rank, world=3)[number].ids for number in range(4)] for rank in range(3)]
    assert [share for turn in zip(*shares, strict=True) for share in turn] == alone
    assert len({identity for ids in alone for identity in ids}) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_what_comes_ahead_is_what_would_be_made_now(workers):
    state = torch.get_rng_state()
    with ahead(feed(first=6), count=5, workers=workers) as micros:
        made = [micro.ids for micro in micros]
    assert made == [feed(first=6)[number].ids for number in range(5)]
    assert torch.equal(torch.get_rng_state(), state)


def test_chance_goes_by_the_place_in_the_order_wherever_a_run_resumes():
    places = []
    whole = feed(lambda groups, place: places.append(place) or plain(groups, place))
    assert [whole[number].ids for number in (3, 4)] == [feed(first=6)[number].ids for number in (0, 1)]
    resumed = feed(whole.collate, first=6)
    assert [resumed[number].ids for number in (0, 1)] and places == [6, 8, 6, 8]


def test_an_error_is_raised_where_the_batch_is_wanted():
    def failing(groups, place):
        raise ValueError(groups[0][0].id)

    with ahead(feed(failing), count=None, workers=0) as micros, pytest.raises(ValueError, match=feed()[0].ids[0]):
        next(micros)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    with ahead(feed(), count=None, workers=0) as micros:
        next(micros)
        assert threading.active_count() == before + 1
    time.sleep(0.01)
    assert threading.active_count() == before


def test_workers_are_few_enough_for_the_machine():
    most = max(16, 4 * cores())
    check_workers(most)
    told = rf"training.workers is {most + 1}, and this machine has {cores()} processor cores; give up to {most}$"
    with pytest.raises(InputError, match=told):
        check_workers(most + 1)
