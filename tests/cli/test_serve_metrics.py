"""What a real server has counted, as Prometheus itself reads it."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from time import monotonic, sleep

import pytest
from prometheus_client.parser import text_string_to_metric_families

import foveal
from foveal.cli._serve_metrics import KIND, SECONDS, Counts, Load, exposition, outcome
from foveal.cli._serve_speaker import Speaker
from foveal.cli._serve_told import Ended
from foveal.core.types import Answer
from tests.cli.test_serve import body, sent, serving

IDLE = Load(open=0, waiting=0, answering=0)


@pytest.fixture
def speaker(tiny):
    return Speaker(foveal.load(tiny.run), longest=40)


def read(text):
    """Every number by its name and labels, and the kind of each family, as Prometheus parses them."""
    families = list(text_string_to_metric_families(text))
    numbers = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
    return numbers, {family.name: family.type for family in families}


def counted(server, name, *labels, to):
    """All numbers, once one has come to a value: a reply is counted just after it was sent."""
    until = monotonic() + 30
    while (numbers := read(sent(server, path="/metrics", method="GET")[1])[0])[name, *labels] != to:
        assert monotonic() < until, numbers
        sleep(0.01)
    return numbers


def test_what_was_asked_is_counted_in_prometheus_own_form(speaker, content):
    with serving(speaker) as server:
        whole = [sent(server, body(content, **more))[1] for more in ({}, {"budget": 5}, {"budget": 3})]
        sent(server, body(content, stream=True))
        assert sent(server, body(content, n=3))[0] == 400 and sent(server, b"{}", **{"Content-Type": "x/y"})[0] == 415
        sent(server, path="/v1/models", method="GET")
        sent(server, b"{}", path="/elsewhere")
        counted(server, "foveal_requests_total", "refused", to=2)
        numbers = counted(server, "foveal_requests_total", "answered", to=4)
        status, told, headers = sent(server, path="/metrics", method="GET")
    assert status == 200 and headers["Content-Type"] == KIND and told.endswith("\n")
    kinds = read(told)[1]
    assert set(kinds.values()) == {"gauge", "counter", "summary", "histogram"} and len(kinds) == 9
    used = [one["usage"] for one in whole] + [whole[0]["usage"]]
    assert numbers["foveal_visual_tokens_total",] == 16 + 5 + 3 + 16
    assert numbers["foveal_prompt_tokens_total",] == sum(one["prompt_tokens"] for one in used)
    assert numbers["foveal_answer_tokens_total",] == sum(one["completion_tokens"] for one in used)
    assert (numbers["foveal_budget_tokens_sum",], numbers["foveal_budget_tokens_count",]) == (8, 2)
    assert numbers["foveal_answer_seconds_count",] == numbers["foveal_answer_seconds_bucket", "+Inf"] == 4
    assert 0 < numbers["foveal_answer_seconds_sum",] < 60
    assert [numbers["foveal_requests_total", one] for one in ("busy", "failed", "left")] == [0, 0, 0]


def test_who_waits_is_told_while_it_waits(speaker, content, monkeypatch):
    asked, go_on, read = threading.Event(), threading.Event(), speaker.read
    monkeypatch.setattr(speaker, "read", lambda jobs: (asked.set(), go_on.wait(60), read(jobs))[-1])
    with serving(speaker, line=1) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(sent, server, body(content))
        assert asked.wait(60)
        second = clients.submit(sent, server, body(content))
        numbers = counted(server, "foveal_requests_waiting", to=1)
        assert (numbers["foveal_requests_open",], numbers["foveal_requests_answering",]) == (2, 1)
        assert sent(server, body(content))[0] == 503
        go_on.set()
        assert (first.result()[0], second.result()[0]) == (200, 200)
        numbers = counted(server, "foveal_requests_total", "answered", to=2)
        assert numbers["foveal_requests_total", "busy"] == 1
        counted(server, "foveal_requests_open", to=0)


def test_faults_of_ours_and_who_hangs_up_are_told_apart(speaker, content, monkeypatch, capsys):
    def broken(jobs):
        raise ZeroDivisionError("division") if jobs[0].wish.budget else ConnectionAbortedError("gone")

    monkeypatch.setattr(speaker, "read", broken)
    with serving(speaker) as server:
        assert sent(server, body(content, budget=3))[0] == 500
        with pytest.raises(ConnectionError):
            sent(server, body(content))
        counted(server, "foveal_requests_total", "failed", to=1)
        counted(server, "foveal_requests_total", "left", to=1)
        with socket.create_connection(server.server_address[:2]) as half:
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: {server.server_address[0]}:{server.server_address[1]}\r\n"
            )
            half.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
        counted(server, "foveal_requests_total", "left", to=2)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_scraper_needs_no_key_and_pages_of_other_sites_read_nothing(speaker):
    with serving(speaker, key="s3cret") as server:
        assert sent(server, body("a fox"))[0] == 401
        numbers = counted(server, "foveal_requests_total", "refused", to=1)
        assert numbers["foveal_requests_total", "answered"] == 0
        assert sent(server, path="/metrics", method="GET", Host="elsewhere.example")[0] == 403
        assert sent(server, b"{}", path="/metrics", Authorization="Bearer s3cret")[0] == 405


def test_times_fall_into_the_bucket_that_holds_them_and_into_all_above():
    counts, told = (
        Counts(),
        Ended(answer=Answer(text="a", token_ids=(1, 2), visual_tokens=9), finish="stop", prompt_tokens=20),
    )
    for seconds in (0.1, 0.11, 59.0, 1000.0):
        counts.answered(told, budget=None, seconds=seconds)
    numbers, _ = read(exposition(counts.metrics(IDLE)))
    buckets = [numbers["foveal_answer_seconds_bucket", f"{edge:g}"] for edge in SECONDS]
    assert buckets == [1, 2, 2, 2, 2, 2, 2, 2, 3] and numbers["foveal_answer_seconds_bucket", "+Inf"] == 4
    assert numbers["foveal_answer_seconds_sum",] == pytest.approx(1059.21)
    assert numbers["foveal_answer_tokens_total",] == 8 and numbers["foveal_budget_tokens_count",] == 0


def test_every_status_has_an_outcome():
    wanted = {400: "refused", 401: "refused", 413: "refused", 503: "busy", 500: "failed"}
    assert {status: outcome(HTTPStatus(status)) for status in wanted} == wanted
