"""The web server of `foveal serve`: OpenAI's chat completions over one model."""

import json
import sys
import time
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import chain
from queue import Empty
from time import monotonic
from typing import Any
from urllib.parse import unquote

from foveal.cli import _http, _serve_door, _serve_metrics
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_door import CHAT, EVENTS, HEALTH, JSON, METRICS, MODELS, Reply
from foveal.cli._serve_metrics import Counts
from foveal.cli._serve_speaker import Job
from foveal.cli._serve_told import Ended, Letterhead
from foveal.cli._serve_wish import wish
from foveal.core.errors import InputError

_GLANCE = 0.2  # seconds after which it is looked whether who asks is still there


class Server(_http.Listener):
    """Serves the model of a desk by its `name`, to who knows the `key` if there is one; errors as of `Listener`."""

    def __init__(self, desk: Desk, *, name: str, host: str, port: int, key: str | None = None) -> None:
        super().__init__(_Handler, host=host, port=port)
        self.desk, self.name, self.key, self.created = desk, name, key, int(time.time())
        self.counts = Counts()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _http.PATIENCE
    server: Server

    def do_GET(self) -> None:
        """How it is, and which model there is."""
        self.close_connection |= _http.brings(self.headers)
        path = self._path
        if path == HEALTH:
            self._send(Reply(status=HTTPStatus.OK, told={"status": "ok"}))
        elif path == METRICS and (not self.server.near or self._names_near()):  # numbers alone: nobody needs the key
            told = _serve_metrics.exposition(self.server.counts.metrics(self.server.desk.load))
            _http.send(self, HTTPStatus.OK, told.encode(), _serve_metrics.KIND)
        elif path == METRICS or not self._welcome():
            return
        elif path == MODELS or path.startswith(f"{MODELS}/"):
            found = _serve_door.models(path, name=self.server.name, created=self.server.created)
            (self._send if found.status == HTTPStatus.OK else self._turn_away)(found)
        else:
            self._turn_away(_serve_door.astray(path, self.command))

    def do_POST(self) -> None:
        """An answer."""
        if not self._welcome():
            return
        if self._path != CHAT:
            return self._turn_away(_serve_door.astray(self._path, self.command))
        length = None if "Transfer-Encoding" in self.headers else _http.length_of(self.headers)
        if (unfit := _serve_door.unfit(self.headers.get_content_type(), length)) is not None:
            return self._turn_away(unfit)
        assert length is not None
        with self.server.desk.place() as free:
            if not free:
                return self._turn_away(_serve_door.full())
            self._answer(length)

    @property
    def _path(self) -> str:
        return unquote(self.path.partition("?")[0])

    def _no_method(self) -> None:
        if self._welcome():
            self._turn_away(_serve_door.astray(self._path, self.command))

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _no_method

    def _answer(self, length: int) -> None:
        began, started, counts = monotonic(), False, self.server.counts
        try:
            body = _http.read(self, length)
            began = monotonic()
            asked = wish(body, model=self.server.name, strategies=self.server.desk.speaker.strategies)
            head = Letterhead(model=self.server.name, created=int(time.time()), usage=asked.usage)
            events = self._events(self.server.desk.ask(asked))
            first = next(events)
            if isinstance(first, Ended) and not asked.stream:
                self._send(Reply(status=HTTPStatus.OK, told=head.whole(first)))
                ended = first
            else:
                started = True
                ended = self._stream(head, first, events)
            counts.answered(ended, budget=asked.budget, seconds=monotonic() - began)
        except (ConnectionError, TimeoutError):
            counts.ended("left")
            self.close_connection = True
        except Exception as error:
            if not isinstance(error, InputError):
                traceback.print_exception(error, file=sys.stderr)
            reply = _serve_door.explained(error)
            counts.ended(_serve_metrics.outcome(reply.status))
            if started:
                return self._say(reply.told)
            self._send(reply)

    def _events(self, job: Job) -> Iterator[str | Ended]:
        """What becomes of a job, as long as who asks is there; raises what is wrong with it."""
        try:
            while True:
                if _http.has_gone(self):
                    raise ConnectionAbortedError("who asks has gone")
                try:
                    event = job.events.get(timeout=_GLANCE)
                except Empty:
                    continue
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            job.gone.set()

    def _stream(self, head: Letterhead, first: str | Ended, events: Iterator[str | Ended]) -> Ended:
        """Server-sent events, as the words come, and what ended them; the connection ends with them."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        for name, value in {**EVENTS, "Connection": "close", "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        self.end_headers()
        self._say(head.opening())
        event = first
        for event in chain([first], events):
            for part in head.closing(event) if isinstance(event, Ended) else [head.piece(event)]:
                self._say(part)
        self.wfile.write(b"data: [DONE]\n\n")
        assert isinstance(event, Ended)
        return event

    def _say(self, part: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())

    def _welcome(self) -> bool:
        """Whether the request has the key; where there is none, whether it names this machine."""
        if self.server.key is None:
            return not self.server.near or self._names_near()
        strange = _serve_door.stranger(self.server.key, self.headers.get("Authorization", ""))
        if strange is not None:
            self._turn_away(strange)
        return strange is None

    def _names_near(self) -> bool:
        """Whether the request names this machine; refused where it does not."""
        if _http.names_near(self.headers):
            return True
        told = "this server is for its own machine; ask it at 127.0.0.1"
        self._turn_away(_serve_door.refusal(HTTPStatus.FORBIDDEN, told))
        return False

    def _turn_away(self, reply: Reply) -> None:
        """Refuse a request unheard."""
        if self.command == "POST" and self._path == CHAT:
            self.server.counts.ended(_serve_metrics.outcome(reply.status))
        self.close_connection = True
        self._send(reply)
        _http.run_by(self)

    def _send(self, reply: Reply) -> None:
        _http.send(self, reply.status, json.dumps(reply.told).encode(), JSON, reply.more)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in the same form."""
        status = HTTPStatus(code)
        self.close_connection = True
        self._send(_serve_door.refusal(status, message or status.phrase))

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing: what is asked is nobody else's."""
