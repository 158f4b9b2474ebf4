"""What the web servers of commands share: where they listen, who is let in, and how much they bear from a sender."""

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from time import monotonic
from typing import Any

from foveal.core.errors import InputError

HEAVIEST = 32 * 1024 * 1024  # bytes of a request, whose pictures take four for three
PATIENCE = 30  # seconds that a slow sender is waited for
_WHOLE = 4 * PATIENCE  # seconds that all of a request may take
_RUN_BY = 16 * HEAVIEST  # bytes of a refused request that are let run by


class Listener(ThreadingHTTPServer):
    """Listens as soon as it is made; raises InputError for an address that cannot be had."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler], *, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host} port {port} ({error.strerror or error}); give another --port, or a --host of "
                "this machine"
            ) from None
        self.near = is_near(host)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def until(self, told: threading.Event) -> None:
        """Listen until an event is told."""
        listening = threading.Thread(target=self.serve_forever, args=(0.2,), daemon=True)
        listening.start()
        while not told.wait(1):
            pass
        self.shutdown()
        listening.join()

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host}]' if self.address_family == socket.AF_INET6 else str(host)}:{port}/"


@contextmanager
def interrupted() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM tells: an exception would strike a connection that has just come."""
    told = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda *_: told.set())
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_near(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_near(headers: Message) -> bool:
    """Whether a request names this machine; a foreign name that leads here is another site's trick."""
    host = (headers.get("Host") or "").rpartition(":")[0] or headers.get("Host") or ""
    return is_near(host.strip("[]"))


def length_of(headers: Message) -> int | None:
    """How many bytes the request says that it brings; None where it does not say."""
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        return None
    return int(length) if len(length) <= 12 else sys.maxsize


def brings(headers: Message) -> bool:
    """Whether a request has a body."""
    return "Content-Length" in headers or "Transfer-Encoding" in headers


def read(handler: BaseHTTPRequestHandler, length: int) -> bytes:
    """The body; raises TimeoutError where it takes too long, ConnectionError where its sender goes before its end."""
    parts, left, until = [], length, monotonic() + _WHOLE
    while left > 0:
        if monotonic() > until:
            raise TimeoutError(f"{left} of {length} bytes have not come in {_WHOLE} s")
        if not (part := handler.rfile.read1(min(left, 2**20))):  # type: ignore[attr-defined]
            raise ConnectionAbortedError(f"{left} of {length} bytes have not come")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def send(
    handler: BaseHTTPRequestHandler, status: HTTPStatus, body: bytes, kind: str, more: Mapping[str, str] | None = None
) -> None:
    """A whole reply of a kind, which nobody keeps."""
    handler.send_response(status)
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}
    if handler.close_connection and handler.protocol_version != "HTTP/1.0":
        headers["Connection"] = "close"
    for name, value in {**headers, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def run_by(handler: BaseHTTPRequestHandler) -> None:
    """Let what a refused request still brings run by: who is cut off while sending reads nothing."""
    length, until = length_of(handler.headers), monotonic() + PATIENCE
    left = min(_RUN_BY if length is None else length, _RUN_BY) if brings(handler.headers) else 0
    with suppress(OSError):
        handler.connection.shutdown(socket.SHUT_WR)
        while left > 0 and monotonic() < until and (part := handler.rfile.read1(min(left, 2**20))):  # type: ignore[attr-defined]
            left -= len(part)


def has_gone(handler: BaseHTTPRequestHandler) -> bool:
    """Whether who asks has hung up."""
    line, patience = handler.connection, handler.connection.gettimeout()
    try:
        line.settimeout(0)
        return not line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        with suppress(OSError):
            line.settimeout(patience)
