"""What `foveal serve` tells, in OpenAI's form, as plain data."""

import uuid
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from foveal.core.types import Answer

_KINDS = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A whole answer: its words and cost in `answer`, why it ended, and the tokens of its prompt."""

    answer: Answer
    finish: Literal["stop", "length"]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that were read and written."""
        new = len(self.answer.token_ids)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
        }

    @property
    def beside(self) -> dict[str, Any]:
        """What only Foveal tells."""
        one = self.answer
        boxes = {"boxes": [asdict(box) for box in one.boxes]} if one.boxes else {}
        return {"visual_tokens": one.visual_tokens, **({"note": one.note} if one.note else {}), **boxes}


@dataclass(frozen=True, kw_only=True)
class Letterhead:
    """What every part of one reply says alike."""

    model: str
    created: int
    usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")

    def whole(self, ended: Ended) -> dict[str, Any]:
        """An answer told at once."""
        message = {"role": "assistant", "content": ended.answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": ended.usage, "foveal": ended.beside}

    def opening(self) -> dict[str, Any]:
        """The first part of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, words: str) -> dict[str, Any]:
        """A part of a stream with some words."""
        return self._chunk({"content": words})

    def closing(self, ended: Ended) -> list[dict[str, Any]]:
        """The last parts of a stream."""
        last = {**self._chunk({}, ended.finish), "foveal": ended.beside}
        cost = {**self._head("chat.completion.chunk"), "choices": [], "usage": ended.usage}
        return [last, cost] if self.usage else [last]

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **({"usage": None} if self.usage else {})}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def model(name: str, created: int) -> dict[str, Any]:
    """One entry of the list of models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "foveal"}


def fault(status: HTTPStatus, told: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """What is said of a request that is not answered."""
    kind = _KINDS.get(status, "invalid_request_error")
    return {"error": {"message": " ".join(told.split()), "type": kind, "param": param, "code": code}}
