"""A real tritonserver over the repository that the command writes, asked by NVIDIA's own client."""

import base64
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal.cli import _triton
from foveal.cli._triton_desk import wish
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.weights.run import Run
from tests.cli.conftest import LONGEST, QUESTIONS
from tests.inference.conftest import traceable as traceable
from tests.models.test_detect import detector

TEXT = QUESTIONS["count"]


@pytest.fixture(scope="module")
def triton():
    """The server's place; skips where a newcomer has none, and fails in CI."""
    server = _triton.found()
    if server is None:
        assert not os.environ.get("CI"), "CI has a tritonserver"
        pytest.skip("no tritonserver is at hand")
    return server


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A repository; who wrote it has not asked a server over it."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_triton, "found", lambda: None)
        assert run(["export", str(tiny.run), "--to", "triton", "--out", str(folder), "--size", "40"]) == 0
    return folder


@pytest.fixture(scope="module")
def client(triton, place):
    from tritonclient.http import InferenceServerClient

    config = place / "run" / "config.pbtxt"
    patient = config.read_text().replace("microseconds: 10000 ", "microseconds: 200000 ")
    config.write_text(patient)  # a busy machine brings requests late
    assert "200000" in patient
    with _triton.serving(triton, place) as url:
        asks = InferenceServerClient(url.removeprefix("http://").removesuffix("/v2"), concurrency=8)
        yield asks
        asks.close()  # or the server waits for it


def given(text, *files, **settings):
    """Inputs of a request with one question."""
    values = {"prompt": np.array([[text.encode()]], dtype=np.object_)}
    if files:
        values["image"] = np.array([[*files]], dtype=np.object_)
    for name, value in settings.items():
        kind = np.object_ if isinstance(value, str) else np.int32
        values[name] = np.array([[value.encode() if isinstance(value, str) else value]], dtype=kind)
    return inputs(**values)


def inputs(**values):
    from tritonclient.http import InferInput

    made = []
    for name, value in values.items():
        kind = "BYTES" if value.dtype == np.object_ else "INT32"
        made.append(InferInput(name, [*value.shape], kind))
        made[-1].set_data_from_numpy(value)
    return made


def told(result):
    return result.as_numpy("text")[0, 0].decode(), int(result.as_numpy("visual_tokens")[0, 0])


def test_a_picture_s_answer_is_the_model_s(tiny, client):
    loaded, file, other = foveal.load(tiny.run), tiny.picture.read_bytes(), (tiny.data / "s1.png").read_bytes()
    uri = b"data:image/png;base64," + base64.b64encode(file)
    for files, shown in (((file,), tiny.picture), ((uri,), tiny.picture), ((b"",), None), ((), None)):
        for settings in ({}, {"budget": 4}, {"budget": 4, "strategy": "grid"}):
            wanted = loaded.answer(shown, TEXT, max_new_tokens=LONGEST, **settings)
            asked = given(TEXT, *files, max_new_tokens=LONGEST, **settings)
            assert told(client.infer("run", asked)) == (wanted.text, wanted.visual_tokens)
    both = loaded.answer([tiny.picture, tiny.data / "s1.png"], TEXT, max_new_tokens=LONGEST)
    assert told(client.infer("run", given(TEXT, file, other, max_new_tokens=LONGEST)))[0] == both.text
    assert both.visual_tokens == 32


def test_requests_that_wait_are_answered_together_and_errors_are_their_own(tiny, client):
    from tritonclient.utils import InferenceServerException

    loaded, file = foveal.load(tiny.run), tiny.picture.read_bytes()
    good = [(text, shown) for shown in (True, False) for text in QUESTIONS.values()]
    bad = [
        (given(TEXT, b"no picture"), "image is no picture that Pillow reads|image is no"),
        (given(TEXT, file, budget=0), "budget of 0; give a whole number from 1"),
        (given(TEXT, file, strategy="gird"), "unknown strategy 'gird'; did you mean 'grid'?"),
        (given("one " * 200), "context"),
        (given(" "), "empty"),
    ]
    before = counted(client)
    asked = [given(text, *([file] if shown else []), max_new_tokens=LONGEST) for text, shown in good]
    waiting = [client.async_infer("run", one) for one in (*asked, *(one for one, _ in bad))]
    for (text, shown), one in zip(good, waiting, strict=False):
        wanted = loaded.answer(tiny.picture if shown else None, text, max_new_tokens=LONGEST)
        assert told(one.get_result()) == (wanted.text, wanted.visual_tokens)
    for (_, said), one in zip(bad, waiting[len(good) :], strict=True):
        with pytest.raises(InferenceServerException) as error:
            one.get_result()
        assert any(part in str(error.value) for part in said.split("|"))
    executions, largest = counted(client)
    assert executions - before[0] < len(waiting) and largest > 1


def counted(client):
    """How many executions there were, and the most requests of one."""
    stats = client.get_inference_statistics("run")["model_stats"][0]
    return stats["execution_count"], max([int(one["batch_size"]) for one in stats["batch_stats"]], default=0)


def test_rows_of_one_request_are_answered_in_order(tiny, client):
    loaded, file = foveal.load(tiny.run), tiny.picture.read_bytes()
    texts = (TEXT, QUESTIONS["where"], QUESTIONS["present"])
    rows = inputs(
        prompt=np.array([[text.encode()] for text in texts], dtype=np.object_),
        image=np.array([[file]] * 3, dtype=np.object_),
        max_new_tokens=np.array([[LONGEST]] * 3, dtype=np.int32),
    )
    said = client.infer("run", rows).as_numpy("text")[:, 0]
    assert [text.decode() for text in said] == [
        loaded.answer(tiny.picture, text, max_new_tokens=LONGEST).text for text in texts
    ]


def test_the_command_asks_the_server_over_graphs(tiny, triton, tmp_path, capsys):
    asked = ["export", tiny.run / "text_only", "--to", "triton", "--engine", "onnx", "--out", tmp_path / "out"]
    assert run([*map(str, asked), "--max-new-tokens", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["served"] == {"by": triton.program, "asked": 1, "alike": 1}
    assert said["engine"] == "onnx" and (tmp_path / "out" / "text_only" / "1" / "run" / "layers.onnx").exists()
    assert not list((tmp_path / "out").rglob("__pycache__"))


def test_what_a_run_refuses_is_refused_behind_the_server_too(triton, tmp_path, capsys):
    Run(*detector()).save(tmp_path / "finds")
    asked = ["export", str(tmp_path / "finds"), "--to", "triton", "--size", "40", "--out", str(tmp_path / "out")]
    assert run([*asked]) == 2
    assert "the model does not answer by what it would be tried: " in capsys.readouterr().err
    assert run([*asked, "--prompt", "detect", "--json"]) == 0  # nothing is found without a picture
    assert json.loads(capsys.readouterr().out)["served"] == {"by": triton.program, "asked": 3, "alike": 3}


def test_without_a_server_it_is_told(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_triton, "found", lambda: None)
    out = str(tmp_path / "out")
    assert run(["export", str(tiny.run / "text_only"), "--to", "triton", "--out", out, "--max-new-tokens", "3"]) == 0
    assert "there is no tritonserver here to ask" in capsys.readouterr().out
    for more, said in (
        (("--engine", "onx", "--to", "triton"), "unknown engine 'onx'; did you mean 'onnx'?"),
        (("--engine", "onnx"), "--engine onnx is of --to triton; leave it out, or give --to onnx"),
        (("--to", "triton"), "is there already; name another place by --out"),
    ):
        assert run(["export", str(tiny.run / "text_only"), "--out", out, *more]) == 2
        assert said in capsys.readouterr().err


def test_a_server_that_does_not_start_is_told_in_a_line(triton, place, tmp_path):
    shutil.copytree(place, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "run" / "1" / "run")
    said = "tritonserver does not start: .*there is no directory"
    with pytest.raises(InputError, match=said), _triton.serving(triton, tmp_path / "broken"):
        pass


def test_what_a_server_has_started_ends_with_it(tmp_path):
    program, told = tmp_path / "tritonserver", tmp_path / "backend"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {told}\nexit 1\n")
    program.chmod(0o755)
    with (
        pytest.raises(InputError, match="tritonserver does not start"),
        _triton.serving(_triton.Server(program=str(program)), tmp_path),
    ):
        pass
    assert gone(told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_server_ends_with_the_process_that_has_started_it(tmp_path, number):
    program, told = tmp_path / "tritonserver", tmp_path / "server"
    program.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 600\n")
    program.chmod(0o755)
    before, end = signal.getsignal(number), threading.Timer(1, os.kill, (os.getpid(), number))
    end.start()
    with pytest.raises(SystemExit), _triton.serving(_triton.Server(program=str(program)), tmp_path):
        pass
    assert gone(told) and signal.getsignal(number) == before


def gone(told):
    """Whether the process whose number is told has ended, or does so within half a minute."""
    process, until = Path("/proc", told.read_text().strip(), "stat"), time.monotonic() + 30
    while process.exists() and " Z " not in process.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    return time.monotonic() < until


def test_what_is_no_text_and_no_base64_is_told():
    row = {"prompt": [b"\xff"]}
    with pytest.raises(InputError, match="prompt is no text; write it in UTF-8"):
        wish(row, marker="<image>", strategies=("foveal",))
    with pytest.raises(InputError, match="image holds no picture in base64"):
        wish({"prompt": [b"a"], "image": [b"data:image/png;base64,!"]}, marker="<image>", strategies=("foveal",))
