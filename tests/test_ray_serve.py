"""The application of Ray Serve: asked in this process as Ray asks it, and by Ray itself."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from time import monotonic, sleep

import pytest
import yaml
from starlette.requests import Request

import foveal
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.ray_serve import Model, app
from tests.cli.conftest import content as content
from tests.cli.conftest import tiny as tiny
from tests.cli.test_serve import CHAT, body, parts


@pytest.fixture
def model(tiny):
    made = Model(str(tiny.run), batch=4, max_new_tokens=40)
    yield made
    made.desk.close()


async def replied(model, given=None, path=CHAT, method="POST", **headers):
    """The status, the reply and its headers, as Starlette sends them."""
    named = {"content-type": "application/json", **headers}
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "server": ("a", 1), "scheme": "http"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in named.items()]
    sent, heard = [{"type": "http.request", "body": json.dumps(given).encode()}], []

    async def receive():
        return sent.pop() if sent else await asyncio.Event().wait()

    async def send(message):
        heard.append(message)

    reply = await model(Request(scope, receive))
    await reply({**scope, "asgi": {"spec_version": "2.4"}}, receive, send)
    told = b"".join(one.get("body", b"") for one in heard).decode()
    return (
        reply.status_code,
        told if "event-stream" in reply.headers["content-type"] else json.loads(told),
        reply.headers,
    )


def test_it_answers_as_the_run_does_whoever_else_asks(model, content, tiny):
    async def all_of():
        asked = [
            body(content, model="run", budget=budget, stream=stream) for budget in (None, 5) for stream in (False, True)
        ]
        return await asyncio.gather(*(replied(model, one) for one in asked * 2))

    replies = asyncio.run(all_of())
    loaded = foveal.load(tiny.run)
    for number, (status, told, _) in enumerate(replies):
        budget, stream = (None, 5)[number // 2 % 2], number % 2
        alone = loaded.answer(str(tiny.picture), content[1]["text"], max_new_tokens=5, budget=budget)
        if stream:
            said = parts(told)
            assert "".join(one["choices"][0]["delta"].get("content", "") for one in said) == alone.text
            told = said[-1]
        else:
            assert told["choices"][0]["message"]["content"] == alone.text
        assert status == 200 and told["foveal"]["visual_tokens"] == alone.visual_tokens == (budget or 16)
    assert model.desk.load.open == 0


def test_what_is_wrong_is_told_as_foveal_serve_tells_it(model, content, monkeypatch, capsys):
    def said(*given, **named):
        return asyncio.run(replied(model, *given, **named))

    assert said(path="/health", method="GET")[:2] == (200, {"status": "ok"})
    assert said(path="/v1/models", method="GET")[1]["data"][0]["id"] == "run"
    for given, status, words in (
        ((body(content, model="run", n=3),), 400, "n of 3"),
        ((body(content, model="other"),), 404, "ask 'run'"),
        ((None, "/metrics", "GET"), 404, "there are /v1/chat/completions, /v1/models and /health"),
        ((None, CHAT, "GET"), 405, "use POST"),
        ((None, "/v1/models/x", "GET"), 404, "no such model"),
    ):
        reply, told, _ = said(*given)
        assert reply == status and words in told["error"]["message"]
    assert said({}, **{"content-type": "text/plain"})[0] == 415
    model.desk._room = 0
    status, _, headers = said(body(content, model="run"))
    assert status == 503 and headers["retry-after"] == "1"
    model.desk._room = 8

    def broken(jobs):
        raise ZeroDivisionError("division")

    monkeypatch.setattr(model.desk.speaker, "read", broken)
    assert said(body(content, model="run"))[0] == 500 and "ZeroDivisionError" in capsys.readouterr().err
    assert model.desk.load.open == 0


def test_the_key_of_the_environment_is_demanded(tiny, monkeypatch):
    monkeypatch.setenv("FOVEAL_API_KEY", "s3cret")
    model = Model(str(tiny.run))
    asked = {"path": "/v1/models", "method": "GET"}
    assert asyncio.run(replied(model, **asked))[0] == 401
    assert asyncio.run(replied(model, **asked, authorization="Bearer s3cret"))[0] == 200
    assert asyncio.run(replied(model, path="/health", method="GET"))[0] == 200
    model.desk.close()
    monkeypatch.setenv("FOVEAL_API_KEY", "two words")
    with pytest.raises(InputError, match="no key"):
        Model(str(tiny.run))


def test_who_hangs_up_frees_the_model(model, content):
    async def left():
        asked = asyncio.create_task(replied(model, body(content, model="run", max_tokens=40)))
        while not model.desk.load.open:
            await asyncio.sleep(0.001)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(left())
    assert model.desk.load.open == 0
    assert asyncio.run(replied(model, body(content, model="run")))[0] == 200


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="unknown setting 'bach'; did you mean 'batch'"):
        app({"bach": 4})


def healthy(url):
    """Whether the application answers there."""
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def test_ray_serves_what_deploy_writes(tiny, content, tmp_path, capsys):
    assert run(["deploy", "ray", str(tiny.run), "--out", str(tmp_path / "out"), "--cpus", "1", "--replicas", "1"]) == 0
    told = yaml.safe_load((tmp_path / "out" / "service.yaml").read_text())
    config = yaml.safe_load(told["spec"]["serveConfigV2"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"]["run"] = str(tiny.run)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "ray.serve.scripts", "run", str(tmp_path / "config.yaml")]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
        line, env={**os.environ, **quiet}, stdout=log, stderr=log, cwd=tmp_path
    ) as process:  # fmt: skip
        url, until = f"http://127.0.0.1:{port}", monotonic() + 120
        try:
            while not healthy(url):
                assert process.poll() is None and monotonic() < until, (tmp_path / "log").read_text()
                sleep(0.2)
            data = json.dumps(body(content, model="run", budget=5)).encode()
            asked = urllib.request.Request(f"{url}{CHAT}", data, {"Content-Type": "application/json"})
            told = json.load(urllib.request.urlopen(asked, timeout=60))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    alone = foveal.load(tiny.run).answer(str(tiny.picture), content[1]["text"], max_new_tokens=5, budget=5)
    assert told["choices"][0]["message"]["content"] == alone.text and told["foveal"] == {"visual_tokens": 5}
