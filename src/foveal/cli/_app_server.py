"""The web server of `foveal app`: its page, what can be chosen, and answers; nothing comes from anywhere else."""

import json
import socket
import sys
import traceback
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from time import monotonic
from typing import Any

from foveal.cli._app_desk import Desk
from foveal.cli._app_wish import HEAVIEST
from foveal.core.errors import InputError

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; " \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # fmt: skip
_PATIENCE = 30  # seconds that a slow sender is waited for
_RUN_BY = 16 * HEAVIEST  # bytes of a refused request that are let run by


class Server(ThreadingHTTPServer):
    """Listens as soon as it is made; raises InputError for an address that cannot be had."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, desk: Desk, *, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), partial(_Handler, desk))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host} port {port} ({error.strerror or error}); give another --port, or a --host of "
                "this machine"
            ) from None
        self.near = is_near(host)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host}]' if self.address_family == socket.AF_INET6 else str(host)}:{port}/"


def is_near(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: Server

    def __init__(self, desk: Desk, *given: Any) -> None:
        self.desk = desk
        super().__init__(*given)

    def do_GET(self) -> None:
        """The page, its parts, and what it can choose from."""
        if not self._welcome():
            return
        path = self.path.partition("?")[0]
        if path == "/offer":
            self._tell(HTTPStatus.OK, self.desk.offer())
        elif path in _PAGE:
            name, kind = _PAGE[path]
            self._send(HTTPStatus.OK, (files("foveal.cli") / "page" / name).read_bytes(), kind)
        else:
            self._turn_away(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """An answer."""
        if not self._welcome():
            return
        if self.path != "/ask":
            return self._turn_away(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.headers.get_content_type() != "application/json":  # what another site's form cannot send unasked
            return self._turn_away(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        length = self._length()
        if length is None:
            return self._turn_away(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        if length > HEAVIEST:
            most = HEAVIEST * 3 // 4 // 2**20
            return self._turn_away(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the picture is too heavy; give one of at most {most} MB"
            )
        body = self.rfile.read(length)
        try:
            self._tell(HTTPStatus.OK, self.desk.ask(body))
        except InputError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, " ".join(str(error).split()))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            told = f"this is our fault ({type(error).__name__}); the terminal that runs foveal app says more"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, told)

    def _welcome(self) -> bool:
        """Whether the request names this machine; a foreign name that leads here is another site's trick."""
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
        if self.server.near and not is_near(host.strip("[]")):
            self._turn_away(HTTPStatus.FORBIDDEN, "this page is for its own machine; open it at 127.0.0.1")
            return False
        return True

    def _length(self) -> int | None:
        """How many bytes the request says that it brings; None where it does not say."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return None
        return int(length) if len(length) <= 12 else sys.maxsize

    def _turn_away(self, status: HTTPStatus, told: str) -> None:
        """Refuse a request unheard, and let what it still brings run by: who is cut off while sending reads nothing."""
        self._refuse(status, told)
        brings = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        length, until = self._length(), monotonic() + _PATIENCE
        left = min(_RUN_BY if length is None else length, _RUN_BY) if brings else 0
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while left > 0 and monotonic() < until and (part := self.rfile.read1(min(left, 2**20))):
                left -= len(part)

    def _refuse(self, status: HTTPStatus, told: str) -> None:
        self.close_connection = True
        self._tell(status, {"error": told})

    def _tell(self, status: HTTPStatus, told: dict[str, Any]) -> None:
        self._send(status, json.dumps(told).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing: what is asked is nobody else's."""
