"""Steps, epochs or minutes; a warm-up and half a cosine."""

import pytest

from foveal.core.errors import InputError
from foveal.training.checkpoint import Progress
from foveal.training.config import Stage
from foveal.training.pace import Pace


def pace(**settings):
    return Pace.of(Stage(**settings), visits=100, a_step=8)


def test_epochs_become_steps_that_cover_them():
    assert pace(epochs=1.0).steps == 13
    assert pace(epochs=2.0).steps == 25
    assert pace(steps=7).steps == 7


def test_the_rate_rises_to_its_peak_and_falls_to_its_floor():
    one = pace(steps=100, warmup=10.0, floor=0.1)
    rates = [one.rate(Progress(stage_step=step)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates == [pace(steps=100, warmup=0.1, floor=0.1).rate(Progress(stage_step=step)) for step in range(100)]


def test_the_clock_counts_from_the_stages_beginning():
    one = pace(minutes=2.0, warmup=0.0)
    assert one.done(Progress(seconds=130.0, stage_began=100.0)) == pytest.approx(0.25)
    assert one.left(Progress(seconds=130.0, stage_began=100.0)) == pytest.approx(90.0)
    assert one.rate(Progress(seconds=160.0, stage_began=100.0)) == pytest.approx(0.5)
    with pytest.raises(InputError, match="ends by the clock but warms up for 50 steps"):
        pace(minutes=1.0, warmup=50.0)


def test_no_warm_up_begins_at_the_peak():
    assert pace(steps=10, warmup=0.0).rate(Progress()) == 1.0
