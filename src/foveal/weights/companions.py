"""What lies beside the weights of a Hugging Face checkpoint for its own processor: tokenizer, templates, settings.

A run that began as such a checkpoint keeps these files in its directory ORIGIN, to be written back as they came.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from foveal.core.errors import InputError

ORIGIN = "origin"
_WORDS = ("tokenizer*", "vocab*", "merges.txt", "*.model")
_LOOK = ("preprocessor_config.json", "processor_config.json")
_NAMED = (
    *(*_WORDS, "added_tokens.json", "special_tokens_map.json", "normalizer.json", "chat_template*"),
    *("*processor_config.json", "*processing_*.py", "tokenization_*.py", "configuration_*.py"),
)
_WITHIN = ("*tokenizer/*", "additional_chat_templates/*")  # InstructBLIP's second one; templates by name


def carry(source: Path | None, folder: Path) -> None:
    """Copy a checkpoint's companions into a folder; nothing where they are gone. Raises InputError for one that cannot
    be read, and where the disk refuses."""
    if source is None or not source.is_dir() or (folder.is_dir() and source.samefile(folder)):
        return
    for path in _companions(source):
        try:
            held = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; mend it, or take it away") from None
        place = folder / path.relative_to(source)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(held)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None


def complete(source: Path | None, *, sees: bool) -> bool:
    """Whether a processor's files lie there: a tokenizer's, and for a model that sees how pictures are prepared."""
    there = () if source is None or not source.is_dir() else [path.name for path in source.iterdir()]
    return any(_any(name, _WORDS) for name in there) and (not sees or any(name in _LOOK for name in there))


def _companions(source: Path) -> Iterator[Path]:
    inner = (path for within in _WITHIN for path in source.glob(within))
    for path in (*source.iterdir(), *inner):
        named = path.parent.name == "additional_chat_templates" or _any(path.name, _NAMED)
        if named and path.is_file():
            yield path


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
