"""Two commands in one directory: the second is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from foveal.cli._alone import alone
from foveal.cli.main import run
from foveal.core.errors import InputError
from tests.cli.test_train import TINY

HOLD = "import sys, time; from pathlib import Path; from foveal.cli._alone import alone\n"
HOLD += "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_a_directory_is_held_until_its_process_ends_however_that_comes(tmp_path):
    place = tmp_path / "deep" / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"another foveal works in .*out now"), alone(place):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(60)
    with alone(place):
        assert [*place.iterdir()] == []


def test_what_holds_nothing_in_the_end_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), alone(tmp_path / "deep" / "out"):
        raise RuntimeError
    assert [*tmp_path.iterdir()] == []
    with alone(tmp_path / "out"):
        (tmp_path / "out" / "file").write_text("a")
    assert (tmp_path / "out" / "file").is_file()


def test_a_run_that_is_being_trained_is_not_trained_by_another_command(painted, capsys):
    Path("tiny.yaml").write_text(yaml.safe_dump({**TINY, "data": {"path": "data"}}))
    with alone(Path("out")):
        assert run(["train", "tiny.yaml", "--out", "out"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == "foveal: another foveal works in out now; let it come to its end, or give another --out"
