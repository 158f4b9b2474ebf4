"""LLaVA instruction data: a JSON list of conversations between human and gpt, images and videos marked in the text."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.data.convert import get, load, may, texts
from foveal.data.media import KINDS, shown

MARKER, MARKERS = "<image>", {"<image>": "image", "<video>": "video"}
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """Conversations of a LLaVA JSON file; image names are relative to `images` (default: the file's folder)."""
    rows, folder = load(source), images or source.parent
    if not isinstance(rows, list):
        raise InputError(f"{source} holds a {type(rows).__name__}; LLaVA data are a list of conversations")
    for number, row in enumerate(rows):
        where = f"{source}: row {number}"
        turns = get(row, "conversations", where, list)
        media = {kind: listed(folder, row, kind, where) for kind in KINDS}
        messages = tuple(message(turn, where, markers(media)) for turn in turns)
        yield Example(
            id=str(row.get("id", number)),
            images=shown(messages, media, where),
            messages=messages,
            meta={"kind": "conversation"},
        )


def listed(folder: Path, row: Mapping[str, Any], kind: str, where: str) -> tuple[Path, ...]:
    """Files by one name, by several or by none; InputError for what is no name."""
    given = may(row, kind, where, str, list)
    names = [given] if isinstance(given, str) else texts(row, kind, where) if given else []
    return tuple(folder / name for name in names)


def markers(media: Mapping[str, tuple[Path, ...]]) -> dict[str, str]:
    """What each word shows: where there are videos alone, they may be marked as images are."""
    if not media["video"]:
        return {MARKER: "image"}
    return MARKERS if media["image"] else dict.fromkeys(MARKERS, "video")


def message(turn: Any, where: str, marks: Mapping[str, str]) -> dict[str, Any]:
    """One turn of a conversation as a chat message, its markers in their places."""
    speaker = get(turn, "from", where, str)
    if speaker not in SPEAKERS:
        raise InputError(f"{where}: {unknown('speaker', speaker, SPEAKERS)}")
    content: list[dict[str, Any]] = []
    for text in re.split(f"({'|'.join(marks)})", get(turn, "value", where, str)):
        if text in marks:
            content.append({"type": marks[text]})
        elif text.strip():
            content.append({"type": "text", "text": text.strip("\n")})
    return {"role": SPEAKERS[speaker], "content": content}
