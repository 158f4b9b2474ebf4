"""The web server of `foveal serve`: OpenAI's chat completions over one model."""

import hmac
import json
import sys
import time
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import chain
from queue import Empty
from typing import Any
from urllib.parse import unquote

from foveal.cli import _http, _serve_told
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_speaker import Job
from foveal.cli._serve_told import Ended, Letterhead
from foveal.cli._serve_wish import Refusal, wish
from foveal.core.errors import InputError

_CHAT, _MODELS, _HEALTH = "/v1/chat/completions", "/v1/models", "/health"
_GLANCE = 0.2  # seconds after which it is looked whether who asks is still there
_JSON = "application/json"


class Server(_http.Listener):
    """Serves the model of a desk by its `name`, to who knows the `key` if there is one; errors as of `Listener`."""

    def __init__(self, desk: Desk, *, name: str, host: str, port: int, key: str | None = None) -> None:
        super().__init__(_Handler, host=host, port=port)
        self.desk, self.name, self.key, self.created = desk, name, key, int(time.time())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _http.PATIENCE
    server: Server

    def do_GET(self) -> None:
        """How it is, and which model there is."""
        self.close_connection |= _http.brings(self.headers)
        path, name, created = self._path, self.server.name, self.server.created
        if path == _HEALTH:
            self._send(HTTPStatus.OK, {"status": "ok"})
        elif not self._welcome():
            return
        elif path == _MODELS:
            self._send(HTTPStatus.OK, {"object": "list", "data": [_serve_told.model(name, created)]})
        elif path == f"{_MODELS}/{name}":
            self._send(HTTPStatus.OK, _serve_told.model(name, created))
        elif path.startswith(f"{_MODELS}/"):
            told = f"there is no such model here; ask {name!r}"
            self._turn_away(HTTPStatus.NOT_FOUND, told, param="model", code="model_not_found")
        else:
            self._astray(path)

    def do_POST(self) -> None:
        """An answer."""
        if not self._welcome():
            return
        path = self._path
        if path != _CHAT:
            return self._astray(path)
        if self.headers.get_content_type() != _JSON:  # what another site's form cannot send unasked
            return self._turn_away(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {_JSON}")
        length = _http.length_of(self.headers)
        if length is None or "Transfer-Encoding" in self.headers:
            return self._turn_away(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        if length > _http.HEAVIEST:
            told = f"the request is too heavy; its pictures may have {_http.HEAVIEST * 3 // 4 // 2**20} MB together"
            return self._turn_away(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, told)
        with self.server.desk.place() as free:
            if not free:
                told = "too many wait already; ask again in a moment"
                return self._turn_away(HTTPStatus.SERVICE_UNAVAILABLE, told, {"Retry-After": "1"})
            self._answer(_http.read(self, length))

    @property
    def _path(self) -> str:
        return unquote(self.path.partition("?")[0])

    def _no_method(self) -> None:
        if self._welcome():
            self._astray(self._path)

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _no_method

    def _answer(self, body: bytes) -> None:
        started = False
        try:
            asked = wish(body, model=self.server.name, strategies=self.server.desk.speaker.strategies)
            head = Letterhead(model=self.server.name, created=int(time.time()), usage=asked.usage)
            events = self._events(self.server.desk.ask(asked))
            first = next(events)
            if isinstance(first, Ended) and not asked.stream:
                return self._send(HTTPStatus.OK, head.whole(first))
            started = True
            self._stream(head, first, events)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            if not isinstance(error, InputError):
                traceback.print_exception(error, file=sys.stderr)
            status, told = _explained(error)
            if started:
                return self._say(told)
            self._send(status, told, {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None)

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

    def _stream(self, head: Letterhead, first: str | Ended, events: Iterator[str | Ended]) -> None:
        """Server-sent events, as the words come; the connection ends with them."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        for name, value in {**headers, "Connection": "close", "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        self.end_headers()
        self._say(head.opening())
        for event in chain([first], events):
            for part in head.closing(event) if isinstance(event, Ended) else [head.piece(event)]:
                self._say(part)
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, part: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())

    def _welcome(self) -> bool:
        """Whether the request has the key; where there is none, whether it names this machine."""
        if self.server.key is None:
            if not self.server.near or _http.names_near(self.headers):
                return True
            self._turn_away(HTTPStatus.FORBIDDEN, "this server is for its own machine; ask it at 127.0.0.1")
            return False
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        fits = hmac.compare_digest(given.strip().encode(), self.server.key.encode())
        if kind.lower() == "bearer" and fits:
            return True
        told = "the key is missing or wrong; send it as 'Authorization: Bearer KEY' (api_key of the client)"
        self._turn_away(HTTPStatus.UNAUTHORIZED, told, {"WWW-Authenticate": "Bearer"}, code="invalid_api_key")
        return False

    def _astray(self, path: str) -> None:
        """Refuse what is not there, or is not asked in this way."""
        way = {_CHAT: "POST", _MODELS: "GET", _HEALTH: "GET"}.get(path)
        if way is not None:
            told = f"{path} does not take {self.command}; use {way}"
            return self._turn_away(HTTPStatus.METHOD_NOT_ALLOWED, told, {"Allow": way})
        told = f"there is no {path[:80]}; there are {_CHAT}, {_MODELS} and {_HEALTH}; a client's base_url ends in /v1"
        self._turn_away(HTTPStatus.NOT_FOUND, told)

    def _turn_away(
        self,
        status: HTTPStatus,
        told: str,
        more: dict[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """Refuse a request unheard."""
        self.close_connection = True
        self._send(status, _serve_told.fault(status, told, param, code), more)
        _http.run_by(self)

    def _send(self, status: HTTPStatus, told: dict[str, Any], more: dict[str, str] | None = None) -> None:
        _http.send(self, status, json.dumps(told).encode(), _JSON, more)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in the same form."""
        status = HTTPStatus(code)
        self.close_connection = True
        self._send(status, _serve_told.fault(status, message or status.phrase))

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing: what is asked is nobody else's."""


def _explained(error: Exception) -> tuple[HTTPStatus, dict[str, Any]]:
    """How the web calls what is wrong, and how it is told."""
    if isinstance(error, Refusal):
        return error.status, _serve_told.fault(error.status, str(error), error.param, error.code)
    if isinstance(error, InputError):
        return HTTPStatus.BAD_REQUEST, _serve_told.fault(HTTPStatus.BAD_REQUEST, str(error))
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    told = f"this is our fault ({type(error).__name__}); the terminal that runs foveal serve says more"
    return status, _serve_told.fault(status, told)
