import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import foveal
from foveal.cli._app_desk import Desk
from foveal.cli._app_server import Server
from foveal.cli._http import HEAVIEST
from foveal.cli.main import run
from tests.browser import browsing


@pytest.fixture(scope="module")
def desk(tiny):
    return Desk({"one": foveal.load(tiny.run), "two": foveal.load(tiny.run)})


@pytest.fixture(scope="module")
def server(desk):
    with Server(desk, host="127.0.0.1", port=0) as made:
        listening = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        listening.start()
        yield made
        made.shutdown()
        listening.join()


@pytest.fixture
def picture(tiny):
    return base64.b64encode(tiny.picture.read_bytes()).decode()


def sent(server, body, path="/ask", method="POST", **headers):
    line = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    line.request(method, path, body=body, headers={"Content-Type": "application/json", **headers})
    reply = line.getresponse()
    told = reply.read()
    line.close()
    return reply.status, json.loads(told) if reply.headers["Content-Type"] == "application/json" else told.decode()


def asked(server, shown, **settings):
    return sent(server, json.dumps({"picture": shown, "question": "Where is the fox", **settings}))


DROP = """
const held = new DataTransfer(), bytes = Uint8Array.from(atob("%s"), (letter) => letter.charCodeAt(0));
held.items.add(new File([bytes], "%s", {type: "%s"}));
document.querySelector("#drop").dispatchEvent(
  new DragEvent("drop", {dataTransfer: held, bubbles: true, cancelable: true}));
"""
MOVE = """
const slider = document.querySelector(".side .%s");
slider.value = "%s";
for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name, {bubbles: true}));
"""
NOW = "document.querySelector('.side .cost tbody tr td:nth-child(2)')?.textContent"


def test_a_person_drops_a_picture_asks_and_moves_the_tensions(server, picture, tmp_path):
    with browsing(tmp_path / "profile") as tab:
        tab.open(server.url)
        tab.until("document.querySelectorAll('.side').length === 2")
        tab.value(
            "document.querySelector('#question').value = 'Where is the fox'; document.querySelector('#beside').click()"
        )
        tab.value("document.querySelector('#ask').click()")
        assert "no picture yet" in tab.until("document.querySelector('#error').textContent")
        tab.value(DROP % (picture, "s0.png", "image/png"))
        tab.until(f"{NOW} === '16'")
        assert tab.value("document.querySelector('.side .answer').textContent.length") > 0
        names = tab.value("[...document.querySelectorAll('.side')[0].querySelectorAll('figure img')].map((i) => i.alt)")
        assert names[:6] == ["partition", "attention", "propositional", "perspectival", "participatory", "relevance"]
        assert len(names) == 6 + 13
        drawn = (
            "[...document.querySelectorAll('.side')[0].querySelectorAll('figure img')].every((i) => i.naturalWidth > 9)"
        )
        tab.until(drawn)
        before = tab.value("document.querySelector('.side figure img').src")
        tab.value("{" + MOVE % ("budget", 5) + "}")
        tab.until(f"{NOW} === '5'")
        assert tab.value("document.querySelector('.side figure img').src") != before
        relevance = "document.querySelectorAll('.side figure img')[5].src"
        before = tab.value(relevance)
        tab.value("{" + MOVE % ("explore", 1) + "}")
        tab.until(f"{relevance} !== {json.dumps(before)}")
        tab.value("{" + MOVE % ("price", 1e9) + "}")
        tab.until(f"{NOW} === '1'")
        tab.value("document.querySelector('#beside').click()")
        tab.until("document.querySelectorAll('.side')[1].querySelectorAll('figure img').length === 19")
        assert tab.faults == []


def test_what_is_no_picture_is_one_line_on_the_page(server, tmp_path):
    with browsing(tmp_path / "profile") as tab:
        tab.open(server.url)
        tab.until("document.querySelectorAll('.side').length === 2")
        tab.value(DROP % (base64.b64encode(b"not a picture at all").decode(), "notes.txt", "text/plain"))
        said = tab.until("document.querySelector('#error').textContent")
        assert said.startswith("notes.txt is not a picture") and "\n" not in said


def test_a_side_is_told_as_data(server, picture):
    status, told = asked(server, picture, budget=5)
    assert status == 200 and told["visual_tokens"] == told["budget"] == 5
    assert told["all"]["visual_tokens"] == 16 and told["seconds"] > 0 and told["notes"] == []
    again = asked(server, picture, price=told["price"])[1]
    assert again["visual_tokens"] == 5 or again["price"] == told["price"]  # a key may be shared
    whole = asked(server, picture)[1]
    assert whole["answer"] == whole["all"]["answer"] and whole["visual_tokens"] == 16


def test_tensions_move_what_they_name(server, picture):
    def shown(name, **settings):
        return next(p["src"] for p in asked(server, picture, budget=5, **settings)[1]["panels"] if p["name"] == name)

    assert shown("relevance", explore=0.0) != shown("relevance", explore=1.0)
    assert shown("relevance", temperature=0.25) != shown("relevance", temperature=4.0)
    assert shown("participatory", explore=0.0) == shown("participatory", explore=1.0)
    dear, cheap = (asked(server, picture, price=price)[1]["visual_tokens"] for price in (1e9, 0.0))
    assert (dear, cheap) == (1, 16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"question": "  "}, "the question is empty"),
        ({"question": 3}, "the question is empty"),
        ({"question": "a" * 5000}, "a question of 5000 letters"),
        ({"picture": ""}, "there is no picture yet"),
        ({"picture": "!!"}, "came damaged"),
        ({"picture": "aGVsbG8="}, "is not a picture"),
        ({"budget": 0}, "budget of 0; give a whole number from 1"),
        ({"budget": 2.5}, "budget of 2.5"),
        ({"budget": True}, "budget of True"),
        ({"budget": "5"}, "budget of 5"),
        ({"temperature": 0}, "temperature of 0"),
        ({"temperature": float("nan")}, "temperature of nan"),
        ({"explore": 2}, "explore of 2"),
        ({"price": -1}, "price of -1"),
        ({"price": 10**400}, "price of 1000"),
        ({"run": 2}, "run of 2"),
        ({"strategy": "fovael"}, "did you mean 'foveal'"),
        ({"strategy": ["foveal"]}, "unknown strategy"),
        ({"strategy": "fastv", "budget": 5}, "cuts before layer 2"),
    ],
)
def test_bad_wishes_are_one_line(server, picture, settings, said):
    status, told = asked(server, picture, **settings)
    assert status == 400 and said in told["error"] and "\n" not in told["error"]


def test_bad_requests_are_refused(server, picture):
    assert sent(server, b"{")[1]["error"].startswith("the request is not JSON")
    assert sent(server, b"[1]")[0] == sent(server, b"[" * 100_000)[0] == 400
    assert sent(server, b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert sent(server, b"", **{"Content-Length": str(HEAVIEST + 1)})[1]["error"].startswith("the picture is too heavy")
    assert sent(server, b"", **{"Content-Length": "-1"})[0] == 411
    assert sent(server, b"{}", path="/else")[0] == sent(server, None, path="/../app.py", method="GET")[0] == 404
    assert sent(server, None, path="/", method="GET", Host="elsewhere.example:80")[0] == 403
    assert sent(server, None, path="/", method="GET", Host="localhost:1")[0] == 200


def test_who_is_refused_while_still_sending_reads_why(server):
    heavy = b" " * (HEAVIEST + 1)
    assert sent(server, heavy)[1]["error"].startswith("the picture is too heavy")
    assert sent(server, heavy, **{"Content-Type": "text/plain"})[0] == 415
    assert sent(server, heavy, path="/else")[0] == 404
    assert sent(server, heavy, Host="elsewhere.example:80")[0] == 403
    assert sent(server, (heavy[: 2**20] for _ in range(8)))[0] == 411


def test_an_error_of_ours_is_a_line_here_and_a_traceback_there(server, picture, desk, monkeypatch, capsys):
    monkeypatch.setattr(desk, "ask", lambda body: 1 / 0)
    status, told = asked(server, picture)
    assert status == 500 and "ZeroDivisionError" in told["error"] and "Traceback" not in told["error"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_page_asks_nobody_else(server):
    for path in ("/", "/page.css", "/page.js"):
        status, told = sent(server, None, path=path, method="GET")
        assert status == 200 and not re.search(r"https?:|//[a-z]", told)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_it_is_told_to(tiny, how):
    line = [sys.executable, "-m", "foveal.cli.main", "app", "--run", str(tiny.run), "--port", "0"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **piped, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        said = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/ shows", said)
        assert found, process.stderr.read()
        with socket.create_connection(("127.0.0.1", int(found[1]))):  # who has just come is no error
            process.send_signal(how)
            told, complained = process.communicate(timeout=60)
    assert (process.returncode, told, complained) == (0, "ended\n", "")


def test_what_cannot_be_opened_is_one_line(tiny, server, capsys):
    for arguments, said in (
        (["--run", "nowhere"], "there is no directory nowhere"),
        (["--run", str(tiny.run), "--port", str(server.server_address[1])], "give another --port"),
        (["--run", str(tiny.run), "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--port", "99999"], "--port"),
    ):
        assert run(["app", *arguments]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1
