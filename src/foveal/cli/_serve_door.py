"""Who is let in to the model, what is asked for, and how it is refused: the same whatever web server carries it."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from foveal.cli import _http, _serve_told
from foveal.cli._serve_wish import Refusal
from foveal.core.errors import InputError

CHAT, MODELS, HEALTH, METRICS = "/v1/chat/completions", "/v1/models", "/health", "/metrics"
JSON = "application/json"
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
_AGAIN = {"Retry-After": "1"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole reply: its status, its JSON, and more headers."""

    status: HTTPStatus
    told: dict[str, Any]
    more: Mapping[str, str] = field(default_factory=dict)


def check_key(key: str | None) -> None:
    """Raise InputError for a key that no client can send."""
    if key is not None and not (key.isascii() and key.isprintable() and key.split() == [key]):
        raise InputError("--api-key is no key that a client can send; give letters, digits and signs without spaces")


def stranger(key: str, authorization: str) -> Reply | None:
    """A refusal for who does not send the key; None for who does."""
    kind, _, given = authorization.partition(" ")
    fits = hmac.compare_digest(given.strip().encode(), key.encode())
    if kind.lower() == "bearer" and fits:
        return None
    told = "the key is missing or wrong; send it as 'Authorization: Bearer KEY' (api_key of the client)"
    return refusal(HTTPStatus.UNAUTHORIZED, told, {"WWW-Authenticate": "Bearer"}, code="invalid_api_key")


def models(path: str, *, name: str, created: int) -> Reply:
    """The list of models, or one of it."""
    if path == MODELS:
        return Reply(status=HTTPStatus.OK, told={"object": "list", "data": [_serve_told.model(name, created)]})
    if path == f"{MODELS}/{name}":
        return Reply(status=HTTPStatus.OK, told=_serve_told.model(name, created))
    told = f"there is no such model here; ask {name!r}"
    return refusal(HTTPStatus.NOT_FOUND, told, param="model", code="model_not_found")


def unfit(kind: str, length: int | None) -> Reply | None:
    """A refusal for a body that is not read: of another kind, of no length, or too heavy; None for one that is."""
    if kind != JSON:  # what another site's form cannot send unasked
        return refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {JSON}")
    if length is None:
        return refusal(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
    if length > _http.HEAVIEST:
        told = f"the request is too heavy; its pictures may have {_http.HEAVIEST * 3 // 4 // 2**20} MB together"
        return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, told)
    return None


def full() -> Reply:
    """Said where the line is."""
    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many wait already; ask again in a moment", _AGAIN)


def astray(path: str, method: str, known: Sequence[str] = (CHAT, MODELS, HEALTH, METRICS)) -> Reply:
    """Refuse what is not `known`, or is not asked in this way."""
    way = None if path not in known else "POST" if path == CHAT else "GET"
    if way is not None:
        told = f"{path} does not take {method}; use {way}"
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, told, {"Allow": way})
    there = f"{', '.join(known[:-1])} and {known[-1]}"
    told = f"there is no {path[:80]}; there are {there}; a client's base_url ends in /v1"
    return refusal(HTTPStatus.NOT_FOUND, told)


def explained(error: Exception) -> Reply:
    """How the web calls what is wrong, and how it is told."""
    if isinstance(error, Refusal):
        again = _AGAIN if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return refusal(error.status, str(error), again, param=error.param, code=error.code)
    if isinstance(error, InputError):
        return refusal(HTTPStatus.BAD_REQUEST, str(error))
    told = f"this is our fault ({type(error).__name__}); the terminal that runs foveal serve says more"
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, told)


def refusal(
    status: HTTPStatus,
    told: str,
    more: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> Reply:
    """A reply in the form of OpenAI's errors."""
    return Reply(status=status, told=_serve_told.fault(status, told, param, code), more=more or {})
