"""A model repository of NVIDIA's Triton Inference Server, and the server itself where there is one."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError

_PATIENCE = 300  # seconds in which a server is ready, or answers
_CONFIG = """backend: "python"
max_batch_size: {together}
dynamic_batching {{ max_queue_delay_microseconds: 10000 }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
input [
  {{ name: "image" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }},
  {{ name: "prompt" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "budget" data_type: TYPE_INT32 dims: [ 1 ] optional: true }},
  {{ name: "strategy" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "max_new_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "visual_tokens" data_type: TYPE_INT32 dims: [ 1 ] }}
]
parameters: {{ key: "max_new_tokens" value: {{ string_value: "{longest}" }} }}
"""
_MODEL = '''"""A run of Foveal, asked by Triton's requests; Foveal is installed where this runs."""

import json
from pathlib import Path

import triton_python_backend_utils as backend

from foveal.cli._triton_desk import TritonDesk


class TritonPythonModel:
    """What Triton asks."""

    def initialize(self, args):
        """Open the run beside this file."""
        config = json.loads(args["model_config"])
        longest = int(config["parameters"]["max_new_tokens"]["string_value"])
        self.desk = TritonDesk(Path(__file__).parent / "run", longest=longest, together=config["max_batch_size"])

    def execute(self, requests):
        """A response to each request."""
        return self.desk.execute(requests, backend)
'''


def write(folder: Path, *, longest: int, together: int) -> None:
    """A model's folder of a repository, around the run that is in its `1/run`."""
    (folder / "config.pbtxt").write_text(_CONFIG.format(longest=longest, together=together), encoding="utf-8")
    (folder / "1" / "model.py").write_text(_MODEL, encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tritonserver: its program, and the `wheel` that it came in where it is none of the machine's own."""

    program: str
    wheel: Path | None = None


def found() -> Server | None:
    """The machine's own tritonserver, or that of nvidia-pytriton in the folder `triton` of this Python."""
    if (program := shutil.which("tritonserver")) is not None:
        return Server(program=program)
    wheel = Path(sys.prefix) / "triton"
    parts = wheel / "pytriton" / "tritonserver"
    return Server(program=str(parts / "bin" / "tritonserver"), wheel=wheel) if _stub(parts).is_file() else None


def _stub(parts: Path) -> Path:
    version = "{}.{}".format(*sys.version_info[:2])
    return parts / "python_backend_stubs" / version / "triton_python_backend_stub"


@contextmanager
def serving(server: Server, repository: Path) -> Iterator[str]:
    """The address of a server over a repository; raises InputError for one that does not start."""
    with _ended_in_order(), tempfile.TemporaryDirectory() as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        log = Path(place) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [server.program, f"--model-repository={repository.resolve()}", *_told(server, Path(place), port)],
                stdout=written,
                stderr=subprocess.STDOUT,
                cwd=_start(server, Path(place)),
                env=_environment(server),
                start_new_session=True,  # so that all that it starts can be ended with it
            )
        url = f"http://127.0.0.1:{port}/v2"
        try:
            _wait(process, url, log)
            yield url
        finally:
            process.terminate()
            process.wait()
            with suppress(ProcessLookupError):  # a backend that it did not wait for stays for good
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Within it, what ends this process lets it end first what is in a session of its own."""
    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(server: Server, place: Path, port: int) -> list[str]:
    plain = ["--http-address=127.0.0.1", f"--http-port={port}", "--exit-timeout-secs=5"]
    plain += ["--allow-grpc=false", "--allow-metrics=false"]
    if server.wheel is None:
        return plain
    parts, backend = server.wheel / "pytriton" / "tritonserver", place / "backends" / "python"
    backend.mkdir(parents=True)
    for part in (*(parts / "backends" / "python").iterdir(), _stub(parts)):
        (backend / part.name).symlink_to(part)
    return [*plain, f"--backend-directory={backend.parent}"]


def _start(server: Server, place: Path) -> Path:
    """Where it starts: its Python reads no PYTHONPATH but what lies there, this Foveal and the wheel's older NumPy."""
    import foveal

    folder = place / "python"
    folder.mkdir()
    if server.wheel is not None:
        for part in (*server.wheel.glob("numpy*"), Path(foveal.__file__).parent):
            (folder / part.name).symlink_to(part)
    return folder


def _environment(server: Server) -> dict[str, str]:
    """This process's own, with this Python first, and for a wheel its libraries and those of this Python."""
    given = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if server.wheel is None:
        return given
    libraries = [str(server.wheel / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return {**given, "LD_LIBRARY_PATH": ":".join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH")]))}


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    wrong = [line.partition("] ")[2] for line in said if line.startswith("E")] or said or ["it says nothing"]
    raise InputError(f"tritonserver does not start: {wrong[-1]:.300}")


def ask(url: str, model: str, text: str, picture: Any, **settings: int) -> dict[str, Any]:
    """What a server answers to words about a picture (None: without one); raises InputError for what it refuses."""
    given: Mapping[str, Any] = {"prompt": text, **settings}
    if picture is not None:
        held = io.BytesIO()
        picture.save(held, "PNG")
        given = {**given, "image": f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"}
    body, headers = json.dumps(given).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/models/{model}/generate", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        said = f"tritonserver answers {error.code}: {error.read().decode(errors='replace')}"
        if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RuntimeError(said) from None
        raise InputError(said) from None
