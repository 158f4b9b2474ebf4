"""The first signal is remembered, the second does not wait."""

import os
import signal
import threading

import pytest

from foveal.training.stop import Interrupted, Stop


def test_the_first_signal_is_remembered_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert stop.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_at_once_the_first_does_not_wait_nor_one_that_has_come_before():
    with Stop() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("began what was to end")
    with Stop() as stop:
        with stop.at_once():
            pass
        os.kill(os.getpid(), signal.SIGINT)  # remembered again
        assert stop.signum == signal.SIGINT


def test_other_threads_train_without_handlers():
    seen = []

    def train():
        with Stop() as stop:
            seen.append(stop.before)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [{}]


def test_exit_codes_are_those_of_shells():
    assert Interrupted(signal.SIGINT, 3, None).exit_code == 130
    assert Interrupted(signal.SIGTERM, 3, None).exit_code == 143
