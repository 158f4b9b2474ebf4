import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.training.plan import MOST, Held, devices_that_fit, shared, zero_that_fits

BILLION = 10**9
NOTHING = dict.fromkeys(("casts", "batches", "activations", "temporary"), 0)
numbers = st.integers(0, 10**12)


@st.composite
def helds(draw):
    weights, gradients = draw(numbers), draw(numbers)
    rest = {name: draw(numbers) for name in ("optimizer", *NOTHING)}
    return Held(weights=weights, layer=draw(st.integers(0, weights)), gradients=gradients, **rest)


def test_seven_billion_parameters_in_mixed_precision_by_hand():
    """ZeRO's own numbers: 2 bytes of weights, 2 of gradients, 12 of fp32 weights and two moments."""
    weights = 7 * BILLION
    held = Held(weights=2 * weights, layer=0, gradients=2 * weights, optimizer=12 * weights, **NOTHING)
    assert shared(held).total == 16 * weights == shared(held, devices=8).total
    each = [shared(held, devices=8, zero=zero).total / weights for zero in (1, 2, 3)]
    assert each == [2 + 2 + 12 / 8, 2 + 14 / 8, 2.0]


def test_the_largest_layer_is_whole_where_weights_are_shared():
    held = Held(weights=100, layer=20, gradients=0, optimizer=0, **NOTHING)
    assert [shared(held, devices=4, zero=zero).weights for zero in (0, 2, 3)] == [100, 100, 20 + 80 // 4]


def test_what_does_not_divide_is_rounded_up():
    held = Held(weights=10, layer=0, gradients=10, optimizer=10, **NOTHING)
    assert shared(held, devices=3, zero=3).total == 3 * 4


def test_gradients_take_turns_with_activations_on_one_device_alone():
    held = Held(weights=5, layer=1, gradients=4, optimizer=8, turns=3, **{**NOTHING, "activations": 6})
    assert (shared(held).total, shared(held).turns) == (20, 3)
    assert shared(held, devices=2).total == 23


@given(helds(), st.integers(1, 64), st.integers(0, 3))
def test_more_sharing_and_more_devices_never_take_more(held, devices, zero):
    here = shared(held, devices=devices, zero=zero).total
    assert here >= shared(held, devices=devices + 1, zero=zero).total
    if zero < 3:
        assert here >= shared(held, devices=devices, zero=zero + 1).total
    assert here >= held.activations + held.temporary + held.casts + held.batches


@given(helds(), st.integers(1, 64), st.integers(0, 3))
def test_sums_agree_and_nothing_is_lost(held, devices, zero):
    memory = shared(held, devices=devices, zero=zero)
    parts = {name: value for name, value in vars(memory).items() if name != "turns"}
    assert memory.total == sum(parts.values()) - memory.turns
    assert shared(held, devices=1, zero=zero).total == shared(held).total
    assert devices * memory.optimizer >= held.optimizer and devices * memory.gradients >= held.gradients
    assert memory.weights >= held.layer


@given(helds(), st.integers(1, 16), st.integers(0, 2), numbers)
def test_what_is_said_to_fit_fits_and_is_the_nearest(held, devices, zero, limit):
    higher, many = (find(held, limit, devices=devices, zero=zero) for find in (zero_that_fits, devices_that_fit))
    if higher is not None:
        totals = [shared(held, devices=devices, zero=stage).total for stage in range(zero + 1, 4)]
        assert totals[higher - zero - 1] <= limit < min([limit + 1, *totals[: higher - zero - 1]])
    if many is not None:
        assert shared(held, devices=many, zero=zero).total <= limit
        assert many == devices + 1 or shared(held, devices=many - 1, zero=zero).total > limit
    elif zero:
        assert shared(held, devices=MOST, zero=zero).total > limit


@pytest.mark.parametrize(("devices", "zero", "said"), [(0, 0, "0 devices"), (2, 4, "ZeRO 4"), (2, -1, "ZeRO -1")])
def test_what_cannot_be_is_refused(devices, zero, said):
    held = Held(weights=1, layer=1, gradients=1, optimizer=1, **NOTHING)
    with pytest.raises(InputError, match=said):
        shared(held, devices=devices, zero=zero)


@pytest.mark.parametrize("wrong", [{"weights": -1}, {"layer": 3}, {"turns": 2}])
def test_counts_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(InputError, match="memory of"):
        Held(**{"weights": 2, "layer": 1, "gradients": 1, "optimizer": 1, **NOTHING, **wrong})


def test_memory_is_plain_bytes():
    assert Held(weights=1, layer=1, gradients=2, optimizer=3, turns=1, **NOTHING).total == 5
