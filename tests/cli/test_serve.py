"""A real server on a free port, asked as clients ask."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

import foveal
from foveal.cli import _serve_table
from foveal.cli._http import HEAVIEST
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_server import Server
from foveal.cli._serve_speaker import Speaker
from foveal.cli.main import run

CHAT = "/v1/chat/completions"
QUESTION = "Where is the fox"


@contextmanager
def serving(speaker, *, together=1, line=64, name="mine", **settings):
    with (
        closing(Desk(speaker, together=together, line=line)) as desk,
        Server(desk, name=name, host="127.0.0.1", port=0, **settings) as server,
    ):
        listening = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        listening.start()
        try:
            yield server
        finally:
            server.shutdown()
            listening.join()


@pytest.fixture(scope="module")
def loaded(tiny):
    return foveal.load(tiny.run)


@pytest.fixture
def speaker(loaded):
    return Speaker(loaded, longest=40)


@pytest.fixture(scope="module")
def server(loaded):
    with serving(Speaker(loaded, longest=40)) as made:
        yield made


def sent(server, body=None, path=CHAT, method="POST", **headers):
    """The status, the reply and its headers."""
    line = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    body = json.dumps(body) if isinstance(body, dict) else body
    line.request(method, path, body=body, headers={"Content-Type": "application/json", **headers})
    reply = line.getresponse()
    told = reply.read()
    line.close()
    plain = reply.headers["Content-Type"] != "application/json"
    return reply.status, told.decode() if plain else json.loads(told), reply.headers


def body(content, **settings):
    return {"model": "mine", "messages": [{"role": "user", "content": content}], "max_tokens": 5, **settings}


def parts(told):
    """What a stream says, part by part."""
    *lines, empty = told.split("\n\n")
    assert empty == "" and lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_an_answer_is_the_model_s_with_what_it_cost(server, content, tiny, loaded):
    alone = loaded.answer(str(tiny.picture), QUESTION, max_new_tokens=5)
    status, told, _ = sent(server, body(content))
    assert status == 200 and told["object"] == "chat.completion" and told["model"] == "mine"
    assert told["id"].startswith("chatcmpl-") and told["created"] > 1_700_000_000
    (choice,) = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": alone.text, "refusal": None}
    assert choice["index"] == 0 and choice["finish_reason"] in ("stop", "length")
    new = len(alone.token_ids)
    read = told["usage"]["prompt_tokens"]
    assert told["usage"] == {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}
    assert told["foveal"] == {"visual_tokens": 16} and read > 16
    less = sent(server, body(content, budget=5, strategy="average_pool"))[1]
    assert less["foveal"] == {"visual_tokens": 5} and less["usage"]["prompt_tokens"] == read - 11
    assert "all are read" in sent(server, body(content, budget=99))[1]["foveal"]["note"]


def test_under_a_budget_an_answer_has_the_room_that_it_has_without(content, tiny):
    run = foveal.load(tiny.run)
    context = run.model.language.context = run.processor.config.context
    with serving(Speaker(run, longest=40)) as server:
        read = sent(server, body(content))[1]["usage"]["prompt_tokens"]
        long = [content[0], {"type": "text", "text": f"{QUESTION} {'two ' * (context - read - 3)}"}]
        for budget, left in ((None, context - 3), (5, context - 14)):
            status, told, _ = sent(server, body(long, max_tokens=40, budget=budget))
            assert status == 200, told
            assert told["usage"]["prompt_tokens"] == left and told["usage"]["completion_tokens"] <= 3


def test_a_stream_says_the_same_in_parts(server, content):
    whole = sent(server, body(content))[1]
    status, told, headers = sent(server, body(content, stream=True, stream_options={"include_usage": True}))
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    first, *middle, last, cost = parts(told)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(part["choices"][0]["delta"]["content"] for part in middle)
    assert said == whole["choices"][0]["message"]["content"] and len(middle) > 1
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["choices"][0]["delta"] == {} and last["foveal"] == whole["foveal"]
    assert cost["choices"] == [] and cost["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in (first, *middle, last))
    assert len({part["id"] for part in (first, *middle, last, cost)}) == 1
    plain = parts(sent(server, body(content, stream=True))[1])
    assert len(plain) == len(middle) + 2 and not any("usage" in part for part in plain)


def test_many_ask_at_once_and_each_hears_its_own_answer(speaker, server, content):
    asked = [body(content if number % 2 else f"{QUESTION} {number}", budget=5 if number % 3 else None,
                  stream=number % 5 == 0) for number in range(24)]  # fmt: skip
    alone = [sent(server, {**one, "stream": False})[1] for one in asked]
    with serving(speaker, together=4) as several, ThreadPoolExecutor(12) as clients:
        replies = list(clients.map(lambda one: sent(several, one)[:2], asked))
    for one, whole, (status, told) in zip(asked, alone, replies, strict=True):
        assert status == 200
        said = whole["choices"][0]["message"]["content"]
        if one["stream"]:
            assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts(told)) == said
        else:
            assert told["choices"] == whole["choices"] and told["usage"] == whole["usage"]


def test_who_comes_while_another_is_written_is_answered_before_it(speaker, content, monkeypatch):
    """The long answer goes on only when the late one is in line, and ends only when that has been heard."""
    come, heard, go_on, together = threading.Event(), threading.Event(), _serve_table.go_on, []

    def waiting(model, rows, chosen):
        assert (heard if 2 in together else come).wait(60) or len(chosen) == 2
        together.append(len(chosen))
        return go_on(model, rows, chosen)

    asked = body(content, stream=True, max_tokens=30), body("one two", max_tokens=2, budget=3)
    alone = []
    with serving(speaker) as server:
        alone = [sent(server, {**one, "stream": False})[1] for one in asked]
    monkeypatch.setattr(_serve_table, "go_on", waiting)
    with serving(speaker, together=2) as server, ThreadPoolExecutor(2) as clients:
        ask = server.desk.ask
        monkeypatch.setattr(server.desk, "ask", lambda wish: (ask(wish), come.set() if wish.budget else None)[0])
        line = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
        line.request("POST", CHAT, json.dumps(asked[0]), {"Content-Type": "application/json"})
        long = line.getresponse()
        first = long.readline()
        assert first.startswith(b"data: ")
        late = clients.submit(sent, server, asked[1]).result(60)[1]
        heard.set()
        told = parts((first + long.read()).decode())
        line.close()
    assert late["choices"] == alone[1]["choices"] and late["usage"] == alone[1]["usage"] and 2 in together
    words = "".join(part["choices"][0]["delta"].get("content", "") for part in told)
    assert words == alone[0]["choices"][0]["message"]["content"]


def test_models_and_health_are_told(server):
    listed = sent(server, path="/v1/models", method="GET")[1]
    (one,) = listed["data"]
    assert listed["object"] == "list" and one["id"] == "mine" and one["object"] == "model"
    assert sent(server, path="/v1/models/mine", method="GET")[1] == one
    assert sent(server, path="/v1/models/other", method="GET")[:2][0] == 404
    assert sent(server, path="/health", method="GET")[1] == {"status": "ok"}


def test_a_name_may_have_any_letters(speaker):
    with serving(speaker, name="my r\u00fcn") as server:
        (one,) = sent(server, path="/v1/models", method="GET")[1]["data"]
        assert one["id"] == "my r\u00fcn"
        assert sent(server, path="/v1/models/my%20r%C3%BCn", method="GET")[1] == one
        assert sent(server, body("a fox", model="my r\u00fcn"))[0] == 200


def test_bad_requests_are_refused_in_openai_s_form(server, content):
    for given, status, said in (
        ((b"{",), 400, "the request is not JSON"),
        ((body(content, model="other"),), 404, "there is no model 'other' here; ask 'mine'"),
        ((body(content, n=3),), 400, "n of 3"),
        ((body(content, strategy="fastv", budget=5),), 400, "layer"),
        ((body("one " * 500),), 400, "the context holds"),
        (({}, "/chat/completions"), 404, "a client's base_url ends in /v1"),
        ((None, CHAT, "GET"), 405, "does not take GET; use POST"),
        ((b"{}", "/v1/models"), 405, "use GET"),
        ((b"{}", CHAT, "DELETE"), 405, "use POST"),
        ((None, "/else", "OPTIONS"), 404, "there is no /else"),
        ((None, CHAT, "BREW"), 501, "Unsupported method"),
    ):
        reply, told, _ = sent(server, *given)
        error = told["error"]
        assert reply == status and said in error["message"] and "\n" not in error["message"]
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert sent(server, b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert sent(server, b"", **{"Content-Length": "-1"})[0] == 411
    assert sent(server, iter([b"{}"]))[0] == 411
    assert sent(server, b" " * (HEAVIEST + 1))[0] == 413
    assert sent(server, path="/v1/models", method="GET", Host="elsewhere.example")[1]["error"]["type"] == (
        "permission_error"
    )
    assert sent(server, body(content))[0] == 200


def test_a_connection_is_kept_for_the_next_request(server, content):
    line = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    for _ in range(3):
        line.request("POST", CHAT, json.dumps(body(content)), {"Content-Type": "application/json"})
        reply = line.getresponse()
        assert reply.status == 200 and json.loads(reply.read())["choices"]
        kept = line.sock
        assert kept is not None
    line.close()


def test_a_key_is_demanded_where_there_is_one(speaker, content):
    with serving(speaker, key="s3cret") as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}, {"Authorization": "\xff"}):
            status, told, headers = sent(server, body(content), **given)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
            assert told["error"]["code"] == "invalid_api_key" and "s3cret" not in json.dumps(told)
            assert sent(server, path="/v1/models", method="GET", **given)[0] == 401
        known = {"Authorization": "Bearer s3cret"}
        assert sent(server, body(content), **known)[0] == 200
        assert sent(server, path="/v1/models", method="GET", Host="elsewhere.example", **known)[0] == 200
        assert sent(server, path="/health", method="GET")[0] == 200


def test_a_full_line_says_when_to_come_again(speaker, content, monkeypatch):
    asked, go_on, read = threading.Event(), threading.Event(), speaker.read
    monkeypatch.setattr(speaker, "read", lambda jobs: (asked.set(), go_on.wait(60), read(jobs))[-1])
    with serving(speaker, line=0) as server, ThreadPoolExecutor(1) as first:
        waiting = first.submit(sent, server, body(content))
        assert asked.wait(60)
        status, told, headers = sent(server, body(content))
        assert status == 503 and headers["Retry-After"] == "1" and told["error"]["type"] == "overloaded_error"
        go_on.set()
        assert waiting.result()[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_model(speaker, content, monkeypatch, stream):
    jobs, asked, read = [], threading.Event(), speaker.read

    def held(some):
        jobs.extend(some)
        asked.set()
        some[0].gone.wait(60)
        return read(some)

    with serving(speaker) as server:
        monkeypatch.setattr(speaker, "read", held)
        told = json.dumps(body(content, stream=stream)).encode()
        with socket.create_connection(server.server_address[:2], timeout=60) as line:
            line.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % CHAT.encode())
            line.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(told), told))
            assert asked.wait(60)
        assert jobs[0].gone.wait(60)
        monkeypatch.setattr(speaker, "read", read)
        assert sent(server, body(content))[0] == 200
        assert jobs[0].events.empty()


def test_an_error_of_ours_is_a_line_here_and_a_traceback_there(speaker, content, monkeypatch, capsys):
    def broken(jobs):
        if jobs[0].wish.stream:
            jobs[0].tell("one")
        raise ZeroDivisionError("division")

    monkeypatch.setattr(speaker, "read", broken)
    with serving(speaker) as server:
        told = sent(server, body(content, stream=True))[1]
        assert "this is our fault (ZeroDivisionError)" in told and "[DONE]" not in told
        status, told, _ = sent(server, body(content))
    assert status == 500 and told["error"]["type"] == "server_error" and "Traceback" not in json.dumps(told)
    assert "ZeroDivisionError: division" in capsys.readouterr().err


def test_openai_s_client_asks_it(server, content):
    import openai

    with openai.OpenAI(base_url=f"{server.url}v1", api_key="any", max_retries=0) as client:
        assert [one.id for one in client.models.list()] == ["mine"]
        asked = {"model": "mine", "messages": [{"role": "user", "content": content}], "max_tokens": 5}
        whole = client.chat.completions.create(**asked, extra_body={"budget": 5, "strategy": "foveal"})
        assert whole.foveal == {"visual_tokens": 5} and whole.usage.total_tokens > 5
        said = [asked["messages"][0], whole.choices[0].message.model_dump(), {"role": "user", "content": "How many"}]
        again = client.chat.completions.create(**{**asked, "messages": said})
        assert again.usage.prompt_tokens > whole.usage.prompt_tokens
        pieces = list(client.chat.completions.create(**asked, stream=True, stop=["nowhere"]))
        plain = client.chat.completions.create(**asked).choices[0]
        assert "".join(one.choices[0].delta.content or "" for one in pieces) == plain.message.content
        assert pieces[-1].choices[0].finish_reason == plain.finish_reason
        with pytest.raises(openai.BadRequestError, match="temperature of 3"):
            client.chat.completions.create(**asked, temperature=3)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_it_is_told_to(tiny, how):
    line = [sys.executable, "-m", "foveal.cli.main", "serve", str(tiny.run), "--port", "0", "--threads", "1"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **piped, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        said = process.stdout.readline()
        found = re.match(r"http://(127\.0\.0\.1):(\d+)/v1 serves 'run'; Ctrl-C ends it", said)
        assert found, process.stderr.read()
        with socket.create_connection((found[1], int(found[2]))):  # who keeps a connection open holds nobody up
            process.send_signal(how)
            told, complained = process.communicate(timeout=60)
    assert (process.returncode, told, complained) == (0, "ended\n", "")


def test_what_cannot_be_served_is_one_line(tiny, server, capsys):
    for arguments, said in (
        (["nowhere"], "there is no directory nowhere"),
        ([str(tiny.run), "--port", str(server.server_address[1])], "give another --port"),
        ([str(tiny.run), "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        ([str(tiny.run), "--api-key", "two words"], "--api-key is no key"),
        (["--batch", "0"], "--batch"),
    ):
        assert run(["serve", *arguments]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1
