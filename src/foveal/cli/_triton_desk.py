"""What a model of NVIDIA's Triton Inference Server does with its requests: those that wait together are answered so."""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.cli._given import MOST_PIXELS, decoded, number
from foveal.cli._serve_speaker import Job, Speaker
from foveal.cli._serve_table import answer
from foveal.cli._serve_told import Ended
from foveal.cli._serve_wish import Wish
from foveal.core.errors import InputError, unknown

Given = Mapping[str, Any]  # an array by the name of an input, of which each first index is a question
GIVEN = ("image", "prompt", "budget", "strategy", "max_new_tokens")


class TritonDesk:
    """A run that Triton's requests are answered by, up to `together` questions at once, each with the best tokens."""

    def __init__(self, run: Path, *, longest: int, together: int) -> None:
        from foveal.cli._runs import open_run

        self.speaker, self.together = Speaker(open_run(run), longest=longest), together

    def execute(self, requests: Sequence[Any], backend: Any) -> list[Any]:
        """A response to each request, by the types of Triton's `backend`; what is wrong is told to its own alone."""
        told = self.answers([_given(request, backend) for request in requests])
        return [_response(one, backend) for one in told]

    def answers(self, requests: Sequence[Given]) -> list[list[Ended] | Exception]:
        """What becomes of each request: an answer to each of its questions, or what is wrong with one."""
        asked = [self._jobs(request) for request in requests]
        waiting = [job for jobs in asked if isinstance(jobs, list) for job in jobs]
        answer(self.speaker, waiting, together=self.together)
        return [_ended(jobs) if isinstance(jobs, list) else jobs for jobs in asked]

    def _jobs(self, request: Given) -> list[Job] | Exception:
        """A job for each question of a request, or what is wrong with one."""
        try:
            marker, strategies = self.speaker.processor.config.marker, self.speaker.strategies
            rows = [{name: value[row] for name, value in request.items()} for row in range(len(request["prompt"]))]
            return [Job(wish(row, marker=marker, strategies=strategies)) for row in rows]
        except Exception as error:
            return error


def wish(row: Given, *, marker: str, strategies: Sequence[str]) -> Wish:
    """The wish that one question holds; raises InputError for any other."""
    from foveal.preprocess.chat import question

    most, budget = (number(_numbers(row), name, None, 1, 1_000_000) for name in ("max_new_tokens", "budget"))
    strategy = _text(row["strategy"][0], "strategy") if "strategy" in row else "foveal"
    if strategy not in strategies:
        raise unknown("strategy", strategy[:80], strategies)
    pictures = [_picture(file) for file in row.get("image", ()) if len(file)]  # an empty one is none
    asked = question(pictures, _text(row["prompt"][0], "prompt"), marker=marker)
    return Wish(asked=asked, most=most, temperature=0.0, budget=budget, strategy=strategy)


def _numbers(row: Given) -> dict[str, int]:
    return {name: int(row[name][0]) for name in ("max_new_tokens", "budget") if name in row}


def _text(given: bytes, name: str) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} is no text; write it in UTF-8") from None


def _picture(file: bytes) -> Any:
    """The picture of a file's bytes, or of a data: URI, which JSON can hold."""
    from foveal.preprocess.image import open_image

    if file[:5].lower() == b"data:":
        held = decoded(file.partition(b",")[2].decode("ascii", "replace"))
        if not held:
            raise InputError("image holds no picture in base64; give a file's bytes, or data:image/png;base64,...")
        file = held
    return open_image(file, name="image", limit=MOST_PIXELS)


def _ended(jobs: Sequence[Job]) -> list[Ended] | Exception:
    """The answers of a request, or the first of what was wrong."""
    told = [job.events.get_nowait() for job in jobs]
    wrong = next((one for one in told if isinstance(one, Exception)), None)
    return wrong or [one for one in told if isinstance(one, Ended)]


def _given(request: Any, backend: Any) -> dict[str, Any]:
    found = {name: backend.get_input_tensor_by_name(request, name) for name in GIVEN}
    return {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}


def _response(told: list[Ended] | Exception, backend: Any) -> Any:
    import numpy as np

    if isinstance(told, InputError):
        return backend.InferenceResponse(error=backend.TritonError(str(told), backend.TritonError.INVALID_ARG))
    if isinstance(told, Exception):
        traceback.print_exception(told, file=sys.stderr)
        said = f"this is our fault ({type(told).__name__}); the server's log says more"
        return backend.InferenceResponse(error=backend.TritonError(said, backend.TritonError.INTERNAL))
    words = np.array([[one.answer.text.encode()] for one in told], dtype=np.object_)
    seen = np.array([[one.answer.visual_tokens] for one in told], dtype=np.int32)
    return backend.InferenceResponse([backend.Tensor("text", words), backend.Tensor("visual_tokens", seen)])
