"""LLaVA instruction data: a JSON list of conversations between human and gpt, images marked by `<image>`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.data.convert import get, load

MARKER = "<image>"
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


def examples(source: Path, images: Path | None) -> Iterator[Example]:
    """Conversations of a LLaVA JSON file; image names are relative to `images` (default: the file's folder)."""
    rows, folder = load(source), images or source.parent
    if not isinstance(rows, list):
        raise InputError(f"{source} holds a {type(rows).__name__}; LLaVA data are a list of conversations")
    for number, row in enumerate(rows):
        where = f"{source}: row {number}"
        names = row.get("image") or [] if isinstance(row, dict) else []
        messages = tuple(message(turn, where) for turn in get(row, "conversations", where))
        yield Example(
            id=str(row.get("id", number)),
            images=tuple(folder / name for name in ([names] if isinstance(names, str) else names)),
            messages=messages,
            meta={"kind": "conversation"},
        )


def message(turn: Any, where: str) -> dict[str, Any]:
    """One turn of a conversation as a chat message, its image markers in their places."""
    speaker = get(turn, "from", where)
    if speaker not in SPEAKERS:
        raise InputError(f"{where}: {unknown('speaker', str(speaker), SPEAKERS)}")
    content: list[dict[str, Any]] = []
    for number, text in enumerate(get(turn, "value", where).split(MARKER)):
        if number:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip("\n")})
    return {"role": SPEAKERS[speaker], "content": content}
