"""The web server of `foveal app`: its page, what can be chosen, and answers; nothing comes from anywhere else."""

import json
import sys
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import Any

from foveal.cli import _http
from foveal.cli._app_desk import Desk
from foveal.core.errors import InputError

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; " \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # fmt: skip


class Server(_http.Listener):
    """Serves the page of a desk; takes the errors of `Listener`."""

    def __init__(self, desk: Desk, *, host: str, port: int) -> None:
        super().__init__(_Handler, host=host, port=port)
        self.desk = desk


class _Handler(BaseHTTPRequestHandler):
    timeout = _http.PATIENCE
    server: Server

    def do_GET(self) -> None:
        """The page, its parts, and what it can choose from."""
        if not self._welcome():
            return
        path = self.path.partition("?")[0]
        if path == "/offer":
            self._tell(HTTPStatus.OK, self.server.desk.offer())
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
        length = _http.length_of(self.headers)
        if length is None:
            return self._turn_away(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        if length > _http.HEAVIEST:
            most = _http.HEAVIEST * 3 // 4 // 2**20
            return self._turn_away(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the picture is too heavy; give one of at most {most} MB"
            )
        body = _http.read(self, length)
        try:
            self._tell(HTTPStatus.OK, self.server.desk.ask(body))
        except InputError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, " ".join(str(error).split()))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            told = f"this is our fault ({type(error).__name__}); the terminal that runs foveal app says more"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, told)

    def _welcome(self) -> bool:
        """Whether the request names this machine, where no other is to reach it."""
        if self.server.near and not _http.names_near(self.headers):
            self._turn_away(HTTPStatus.FORBIDDEN, "this page is for its own machine; open it at 127.0.0.1")
            return False
        return True

    def _turn_away(self, status: HTTPStatus, told: str) -> None:
        """Refuse a request unheard."""
        self._refuse(status, told)
        _http.run_by(self)

    def _refuse(self, status: HTTPStatus, told: str) -> None:
        self.close_connection = True
        self._tell(status, {"error": told})

    def _tell(self, status: HTTPStatus, told: dict[str, Any]) -> None:
        self._send(status, json.dumps(told).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        _http.send(self, status, body, kind, {"Content-Security-Policy": _POLICY})

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing: what is asked is nobody else's."""
