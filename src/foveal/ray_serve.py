"""The model of `foveal serve` behind Ray Serve: `foveal.ray_serve:app` is what a RayService imports.

Each replica has a model with a line of its own. What is asked and answered is what `foveal serve` takes and gives; the
API key is FOVEAL_API_KEY, where that is set.
"""

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

from foveal.cli import _serve_door
from foveal.cli._serve_door import CHAT, EVENTS, HEALTH, JSON, MODELS, Reply
from foveal.cli._serve_told import Ended, Letterhead
from foveal.core.errors import InputError, unknown

SETTINGS = ("run", "batch", "max_new_tokens", "threads")
_KNOWN = (CHAT, MODELS, HEALTH)


def app(settings: dict[str, Any]) -> Any:
    """The application of a `run` (none: the starter model), with `batch`, `max_new_tokens` and `threads` of a replica.

    Raises InputError for other settings.
    """
    for name in settings:
        if name not in SETTINGS:
            raise unknown("setting", name, SETTINGS)
    from ray import serve

    return serve.deployment(Model, name="model").bind(**settings)


class Model:
    """A replica: a run that answers up to `batch` waiting requests at once; errors as of `foveal serve`."""

    def __init__(
        self, run: str | None = None, batch: int = 1, max_new_tokens: int = 128, threads: int | None = None
    ) -> None:
        from foveal.cli._runs import open_run
        from foveal.cli._serve_desk import Desk
        from foveal.cli._serve_speaker import Speaker

        self.key, self.created = os.environ.get("FOVEAL_API_KEY"), int(time.time())
        _serve_door.check_key(self.key)
        self.name = "starter" if run is None else Path(run).resolve().name
        speaker = Speaker(open_run(None if run is None else Path(run)), longest=max_new_tokens)
        self.desk = Desk(speaker, together=batch, threads=threads)

    def __del__(self) -> None:
        """Ray Serve lets go of a replica so."""
        if hasattr(self, "desk"):
            self.desk.close()

    async def __call__(self, request: Any) -> Any:
        """The reply to one of Starlette's requests."""
        path, method = request.url.path, request.method
        if path == HEALTH and method == "GET":
            return _whole(Reply(status=HTTPStatus.OK, told={"status": "ok"}))
        if self.key is not None:
            strange = _serve_door.stranger(self.key, request.headers.get("Authorization", ""))
            if strange is not None:
                return _whole(strange)
        if path == CHAT and method == "POST":
            return await self._chat(request)
        if (path == MODELS or path.startswith(f"{MODELS}/")) and method == "GET":
            return _whole(_serve_door.models(path, name=self.name, created=self.created))
        return _whole(_serve_door.astray(path, method, _KNOWN))

    async def _chat(self, request: Any) -> Any:
        """An answer, at once or as its words come."""
        from starlette.responses import StreamingResponse

        from foveal.cli._serve_wish import wish

        body, kind = await request.body(), request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if (unfit := _serve_door.unfit(kind, len(body))) is not None:
            return _whole(unfit)
        with ExitStack() as held:
            if not held.enter_context(self.desk.place()):
                return _whole(_serve_door.full())
            try:
                strategies = self.desk.speaker.strategies
                asked = await asyncio.to_thread(wish, body, model=self.name, strategies=strategies)
                head = Letterhead(model=self.name, created=int(time.time()), usage=asked.usage)
                events = self._events(asked)
                first = await anext(events)
            except Exception as error:
                return _whole(_explained(error))
            if isinstance(first, Ended) and not asked.stream:
                return _whole(Reply(status=HTTPStatus.OK, told=head.whole(first)))
            stream = _streamed(head, first, events, held.pop_all())
            return StreamingResponse(stream, headers=EVENTS)

    async def _events(self, asked: Any) -> AsyncIterator[str | Ended]:
        """What becomes of a wish, as long as who asks is there; raises what is wrong with it."""
        line = _Line()
        job = self.desk.ask(asked, line)
        try:
            while True:
                event = await line.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            job.gone.set()


class _Line:
    """A queue into which another thread puts, and out of which this one's loop takes."""

    def __init__(self) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self.get = self._queue.get

    def put(self, event: Any) -> None:
        """Add one."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


async def _streamed(head: Letterhead, first: Any, events: AsyncIterator[Any], held: ExitStack) -> AsyncIterator[bytes]:
    """Server-sent events, as the words come; a place in line is held as long."""
    with held:
        yield _said(head.opening())
        event = first
        try:
            while not isinstance(event, Ended):
                yield _said(head.piece(event))
                event = await anext(events)
        except Exception as error:
            yield _said(_explained(error).told)
            return
        for part in head.closing(event):
            yield _said(part)
        yield b"data: [DONE]\n\n"


def _said(part: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(part)}\n\n".encode()


def _explained(error: Exception) -> Reply:
    if not isinstance(error, InputError):
        traceback.print_exception(error, file=sys.stderr)
    return _serve_door.explained(error)


def _whole(reply: Reply) -> Any:
    from starlette.responses import Response

    told = json.dumps(reply.told)
    return Response(told, status_code=reply.status.value, headers=dict(reply.more), media_type=JSON)
