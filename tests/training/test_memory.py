import subprocess
import sys

import pytest

from foveal.training import memory
from foveal.training.memory import memory_kept

# in a fresh process, whose heap has no room of other tests in it
MEASURE = """
from foveal.training.memory import memory_kept

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

def step(large=64):
    blocks = [bytearray(b"1") * (size << 20) for size in (large, *[4] * 48)]
    before = held()
    blocks.clear()
    return before - held()

"""


def megabytes(code: str) -> list[int]:
    """What a script prints that knows of `step`, the megabytes that go back when 256 are freed, and of `held`."""
    done = subprocess.run([sys.executable, "-c", MEASURE + code], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.fixture(autouse=True)
def left_to_itself(monkeypatch):
    for name in (*memory._CHOSEN, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


def test_freed_memory_stays_until_the_end():
    code = "with memory_kept():\n print(step())\n full = held()\nprint(full - held())\nprint(step(large=400))"
    within, given_back, afterwards = megabytes(code)
    assert within < 20
    assert given_back > 200
    assert afterwards >= 400  # a large block goes back as soon as it is freed


def test_the_outermost_decides():
    within, after = megabytes("with memory_kept():\n with memory_kept(): pass\n print(step())\nprint(step(large=400))")
    assert within < 20
    assert after >= 400


def test_an_error_within_ends_it():
    code = "try:\n with memory_kept(): 1 / 0\nexcept ZeroDivisionError: pass\nprint(step(large=400))"
    assert megabytes(code)[0] >= 400


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")]
)
def test_what_a_user_has_set_up_stays(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "_set", None)
    with memory_kept():
        pass


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory, "_set", None)
    with memory_kept():
        pass
