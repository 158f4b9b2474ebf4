"""What `foveal export --to triton` does: a repository written, and the server over it asked what the run is asked."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from foveal.cli import _triton
from foveal.cli._detection import check_asked
from foveal.cli._exported import Wish, cases, graphs, opened
from foveal.cli._placed import placed
from foveal.core.errors import InputError, unknown

TORCH = "torch"  # an engine that needs no graphs
_TOGETHER, _LONGEST = 8, 128  # questions at once, and tokens of an answer, until config.pbtxt says otherwise


def export(wish: Wish, *, name: str) -> dict[str, Any]:
    """Write a repository whose model has this name, and try it; returns what is told of it.

    Takes the errors of an export, and raises InputError for an engine of another name, and for a run that answers no
    questions about pictures' files.
    """
    from foveal.cli._serve_speaker import Speaker
    from foveal.inference.sessions import check_engine, engines

    if wish.engine not in (TORCH, *engines()):
        raise unknown("engine", wish.engine, (TORCH, *engines()))
    if wish.engine != TORCH:
        check_engine(wish.engine, writes=True)
    with placed(wish.out) as made:
        loaded = opened(wish, dtype=None if wish.engine == TORCH else "float32")
        Speaker(loaded, longest=_LONGEST)  # it says what it cannot serve
        run = made / name / "1" / "run"
        run.mkdir(parents=True)
        told = _plain(loaded, run) if wish.engine == TORCH else graphs(wish, loaded, run)
        _triton.write(made / name, longest=_LONGEST, together=_TOGETHER)
        return {"out": str(wish.out), "model": name, **told, "served": served(wish, loaded, made, name)}


def _plain(loaded: Any, run: Path) -> dict[str, Any]:
    loaded.save(run)
    bytes_ = sum(path.stat().st_size for path in run.iterdir())
    return {"engine": TORCH, "bytes": {"run": bytes_}, "computed_by": TORCH, "asked": []}


def served(wish: Wish, loaded: Any, repository: Path, name: str) -> dict[str, Any]:
    """Whether a server over the repository says what the model says; where there is none, the run that it would ask."""
    asked = [*cases(wish, loaded)]
    if any(picture is not None and not hasattr(picture, "save") for _, _, picture in asked):
        raise InputError("Triton is asked about pictures, and an --image is none; give pictures")

    def by(loaded: Any) -> list[tuple[str, int] | InputError]:
        return [_said(partial(_answered, loaded, picture, text, wish.new)) for _, text, picture in asked]

    wanted = by(loaded)
    if all(isinstance(one, InputError) for one in wanted):
        raise InputError(f"the model does not answer by what it would be tried: {wanted[0]}; give another --prompt")
    server = _triton.found()
    if server is None:
        import foveal

        said = by(foveal.load(repository / name / "1" / "run"))
    else:
        with _triton.serving(server, repository) as url:
            said = [_said(partial(_asked, url, name, text, picture, wish.new)) for _, text, picture in asked]
        shutil.rmtree(repository / name / "1" / "__pycache__", ignore_errors=True)  # of the server's Python
    alike = sum(_alike(one, other) for one, other in zip(wanted, said, strict=True))
    return {"by": None if server is None else server.program, "asked": len(asked), "alike": alike}


def _said(answered: Callable[[], tuple[str, int]]) -> tuple[str, int] | InputError:
    """The words of an answer and its visual tokens, or that it is refused."""
    try:
        return answered()
    except InputError as error:
        return error


def _answered(loaded: Any, picture: Any, text: str, new: int) -> tuple[str, int]:
    check_asked(loaded, text)
    answer = loaded.answer(picture, text, max_new_tokens=new)
    return answer.text, answer.visual_tokens


def _asked(url: str, name: str, text: str, picture: Any, new: int) -> tuple[str, int]:
    told = _triton.ask(url, name, text, picture, max_new_tokens=new)
    return told["text"], told["visual_tokens"]


def _alike(one: tuple[str, int] | InputError, other: tuple[str, int] | InputError) -> bool:
    """Whether both sides say the same, or both refuse."""
    return one == other or (isinstance(one, InputError) and isinstance(other, InputError))
