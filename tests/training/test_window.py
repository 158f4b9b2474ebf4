"""Means between two entries, and the alarm."""

import json

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.step import Taken
from foveal.training.window import Window


def taken(loss, count, norm=1.0, **parts):
    numbers = {name: (torch.tensor(a), torch.tensor(b)) for name, (a, b) in parts.items()}
    return Taken(loss=torch.tensor(loss), count=torch.tensor(count), norm=torch.tensor(norm), parts=numbers)


def test_means_are_over_items_and_not_over_steps():
    window = Window(lag=0)
    window.add(taken(8.0, 2.0, cells=(3.0, 3.0)), lambda: "step 1", tokens=10, examples=2)
    window.add(taken(2.0, 8.0, 3.0, cells=(0.0, 0.0)), lambda: "step 2", tokens=5, examples=1)
    assert window.means() == (1.0, 2.0, {"cells": 1.0})
    assert (window.tokens, window.examples, window.steps) == (15, 3, 2)
    window.clear()
    assert window.steps == 0


def test_it_goes_on_from_its_state():
    steps = [taken(8.0, 2.0, cells=(3.0, 3.0)), taken(2.0, 8.0, 3.0, cells=(0.1, 2.0))]
    whole, first, second = (Window(lag=0) for _ in range(3))
    for window, one in ((whole, steps[0]), (whole, steps[1]), (first, steps[0])):
        window.add(one, lambda: "", tokens=10, examples=2)
    first.since -= 60
    second.put(json.loads(json.dumps(first.state())))
    second.add(steps[1], lambda: "", tokens=10, examples=2)
    assert second.means() == whole.means()
    assert {**second.state(), "seconds": 0} == {**whole.state(), "seconds": 0}
    assert second.spent() >= 60
    whole.put({})  # of a checkpoint that was written before there were any
    assert whole.means() == second.means()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (taken(float("nan"), 2.0), "step 7: the loss is nan"),
        (taken(float("inf"), 2.0), "step 7: the loss is inf"),
        (taken(1.0, 2.0, float("nan")), "step 7: the gradient is nan"),
        (taken(0.0, 0.0), "step 7: no token carries a loss"),
    ],
)
def test_what_is_no_number_is_told_even_when_it_is_read_late(bad, message):
    window = Window(lag=1)
    window.add(bad, lambda: "step 7", tokens=1, examples=1)
    with pytest.raises(InputError, match=message):
        window.add(taken(1.0, 1.0), lambda: "step 8", tokens=1, examples=1)


def test_a_late_reader_reads_all_at_the_end():
    window = Window(lag=1)
    window.add(taken(1.0, 1.0), lambda: "step 1", tokens=1, examples=1)
    assert window.steps == 0
    window.read()
    assert window.steps == 1


def test_steps_that_count_nothing_are_in_no_mean_and_too_many_in_a_row_are_refused():
    window = Window(lag=0, most=3)
    some, none = taken(2.0, 1.0), taken(0.0, 0.0, float("nan"))
    for one in (none, none, some, none):
        window.add(one, lambda: "", tokens=1, examples=1)
    assert (window.means(), window.steps, window.tokens) == ((2.0, 1.0, {}), 1, 4)
    window.clear()
    later = Window(lag=0, most=3)
    later.put(json.loads(json.dumps(window.state())))
    later.add(none, lambda: "", tokens=1, examples=1)
    with pytest.raises(InputError, match="step 9: no token carries a loss, nor does anything else, in 3 steps"):
        later.add(none, lambda: "step 9", tokens=1, examples=1)
