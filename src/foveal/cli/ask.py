"""`foveal ask`: a question about pictures, answered as it is written."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foveal.cli import _budget, _sampling
from foveal.core.errors import InputError
from foveal.core.example import FEATURES, is_film

if TYPE_CHECKING:
    from foveal.core.types import Answer

LONGEST = 32  # new tokens of an answer
_LENGTH = typer.Option(
    None, "--max-new-tokens", help="The longest answer, in tokens.", show_default="32; all of a caption that is spelled"
)


def command(
    words: list[str] = typer.Argument(
        metavar="IMAGE... PROMPT",
        help="Images (- reads one from standard input) or videos (files, directories of frames), then the question.",
    ),
    run: Path | None = typer.Option(None, "--run", help="A run or checkpoint directory.", show_default="starter model"),
    max_new_tokens: int | None = _LENGTH,
    stream: bool = typer.Option(True, "--stream/--no-stream", help="Print words as they come."),
    budget: int | None = _budget.BUDGET,
    price: str | None = _budget.PRICE,
    total: str | None = _budget.TOTAL,
    strategy: str | None = _budget.STRATEGY,
    drawn: Path | None = typer.Option(
        None, "--map", help="Write the picture with the boxes that a run has found, or where it spent its budget."
    ),
    temperature: float | None = _sampling.TEMPERATURE,
    top_p: float | None = _sampling.TOP_P,
    top_k: int | None = _sampling.TOP_K,
    seed: int = _sampling.SEED,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Ask a question about one or more pictures or videos."""
    import time
    from dataclasses import asdict

    from foveal.cli import _detection, _regions, _show
    from foveal.cli._runs import open_run
    from foveal.preprocess.video import refuse

    names, prompt = split(words)
    images = [picture(name) for name in names]
    if drawn is not None:
        refuse(images, "maps")
    model = open_run(run)
    _detection.check_asked(model, prompt)
    _regions.warn(run)
    drawing = _sampling.sampling(
        temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, spelled=_detection.detects(run)
    )  # fmt: skip
    _sampling.check(drawing, model.model)
    settings = _budget.spending(budget, strategy, price, total) | ({} if drawing is None else {"sampling": drawing})
    started = time.perf_counter()
    steps = model.stream_answer(images, prompt, **_length(run, max_new_tokens), **settings)
    steps = steps if as_json else noted(steps)
    if drawn is not None:
        steps = iter(kept := [*steps])
        _draw(model, images, kept[-1], drawn, spent=settings.get("budget") is not None)
    if as_json:
        *_, last = steps
        spent = round(time.perf_counter() - started, 3)
        cost = {"visual_tokens": last.visual_tokens, "tokens": len(last.token_ids), "seconds": spent}
        asked = {"run": str(run or "starter"), "images": names, "prompt": prompt}
        boxes = {"boxes": [asdict(box) for box in last.boxes]} if last.boxes else {}
        _show.print_json({**asked, "answer": last.text, **boxes, **cost, **({"note": last.note} if last.note else {})})
        return
    if not stream:
        steps = iter([*steps][-1:])
    for piece in pieces(step.text for step in steps):
        print(piece, end="", flush=True)
    print()


def _length(run: Path | None, given: int | None) -> dict[str, int]:
    """The longest answer as a setting; none where a run that spells is not told one, for it knows its own."""
    from foveal.cli._detection import detects

    if given is None and detects(run):
        return {}
    return {"max_new_tokens": LONGEST if given is None else given}


def _draw(model: Any, images: list[Any], last: "Answer", out: Path, *, spent: bool) -> None:
    """Write the picture of where a budget was spent, or else of the boxes that were found."""
    from foveal.cli import _detection, _looked

    if spent:
        _looked.draw(images, last, out)
    else:
        _detection.draw(model, images, last.boxes, out)


def noted(steps: "Iterator[Answer]") -> "Iterator[Answer]":
    """The same, with what is to be said of the budget told before the first word."""
    import sys

    for number, step in enumerate(steps):
        if step.note and not number:
            print(f"foveal: {step.note}", file=sys.stderr)
        yield step


def split(words: list[str]) -> tuple[list[str], str]:
    """Images and prompt. Raises InputError where the prompt is missing, empty or rather an image."""
    import os

    *names, prompt = words
    if prompt == "-" or os.path.exists(prompt):  # unlike Path.exists, it bears prompts too long for a file's name
        raise InputError(
            f"the last argument is the question, and {prompt!r} is an image or a video; add a question after it"
        )
    if not prompt.strip():
        raise InputError("the question is empty; write what you want to know, such as 'What is in the picture?'")
    if names.count("-") > 1:
        raise InputError("standard input (-) is named twice, and it holds one image; give the others as files")
    return names, prompt


def picture(name: str) -> Any:
    """An opened image file, or the one on standard input, or the path of a video or of regions; InputError for none."""
    import sys

    from foveal.preprocess.image import open_image
    from foveal.preprocess.video import times

    if name == "-":
        return open_image(sys.stdin.buffer.read(), name="standard input")
    if is_film(name):
        times(name)
        return Path(name)
    return Path(name) if name.endswith(FEATURES) else open_image(Path(name))


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What to print after each longer text; half a character, or a word that is being rewritten, waits."""
    printed, text = "", ""
    for text in texts:
        if text.startswith(printed) and not text.endswith("\ufffd"):
            yield text[len(printed) :]
            printed = text
    if text != printed:
        yield text[len(printed) :] if text.startswith(printed) else f"\n{text}"
