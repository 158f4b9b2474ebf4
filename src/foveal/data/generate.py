"""Writes a starter data set: images and JSON lines for train, val, test and pairs, by several processes."""

import errno
import functools
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from foveal.core.config import dump
from foveal.core.errors import InputError, unknown
from foveal.core.parsing import from_json
from foveal.data.drawings import ATTRIBUTION, share
from foveal.data.format import chat, encode_box
from foveal.data.questions import Question
from foveal.data.scenes import SPLITS, Scene, SceneConfig, Scenes, split_of

CODECS = {"jpeg": ".jpg", "png": ".png"}
MARK = "dataset.json"  # what tells a data set from any other directory
SHARED = ".drawings"  # where the processes of one run exchange renderings; gone when the data set is whole
CHUNK = 16  # scenes that a process makes at a time
Chunk = tuple[list[tuple[str, int, str]], float]  # split, number of lines and lines of each; processor seconds
Make = Callable[[str, str, Any], Chunk]  # of a folder, a codec and a piece of work
DESCRIBE = ("Describe the picture.", "What is in the picture?", "What does the picture show?")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written: scenes and examples of each split, seconds by the clock, and seconds of processors."""

    scenes: dict[str, int]
    examples: dict[str, int]
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Scenes a second by the clock."""
        return sum(self.scenes.values()) / max(self.seconds, 1e-9)


def noted(data: Path) -> dict[str, Any]:
    """What is noted of a data set, by its directory or a file in it; nothing of one that others have made."""
    file = (data if data.is_dir() else data.parent) / MARK
    try:
        told = from_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def picture_bytes(picture: Image.Image, codec: str) -> bytes:
    """The picture as JPEG (quality 92, full colour resolution) or PNG (fast compression)."""
    stream = io.BytesIO()
    if codec == "png":
        picture.save(stream, "PNG", compress_level=1)
    else:
        picture.save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


def scene_lines(scene: Scene, image: str) -> list[str]:
    """The lines of a scene: its caption, then its questions; each carries all boxes of the scene."""
    dumps = functools.partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    boxes, size = dumps([encode_box(b.label, b.xyxy) for b in scene.boxes]), list(scene.image.size)
    common = {"scene": scene.id, "split": scene.split, "size": size}
    common["words"] = [i for i, box in enumerate(scene.boxes) if box.word]
    everything = list(range(len(scene.boxes)))
    ask = DESCRIBE[sum(scene.id.encode()) % len(DESCRIBE)]
    rows = [(ask, scene.caption, {"kind": "caption", **common, "evidence": everything})]
    rows += [(q.text, q.answer, {"kind": q.kind, **common, **_about(q)}) for q in scene.questions]
    return [
        f'{{"id":"{scene.id}-{number:02d}","images":[{dumps(image)}],"messages":{dumps(chat(question, answer))},'
        f'"boxes":{boxes},"meta":{dumps(meta)}}}\n'
        for number, (question, answer, meta) in enumerate(rows)
    ]


def _about(question: Question) -> dict[str, Any]:
    told = {"form": question.form, "evidence": list(question.evidence), "area": question.area}
    return told | ({"choices": list(question.choices)} if question.choices else {})


def make_chunk(config: SceneConfig, folder: str, codec: str, task: tuple[bool, int, int]) -> Chunk:
    """Write the images of some scenes; returns split, number of lines and lines of each, and processor seconds."""
    pairs, first, last = task
    start, scenes, made = time.process_time(), Scenes(config, pairs=pairs), []
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    for index in range(first, last):
        scene = scenes[index]
        image = f"images/{scene.id}{CODECS[codec]}"
        with open(os.path.join(folder, image), "wb") as file:
            file.write(picture_bytes(scene.image, codec))
        lines = scene_lines(scene, image)
        made.append((scene.split, len(lines), "".join(lines)))
    return made, time.process_time() - start


@contextmanager
def whole_directory(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary directory that becomes `out` at the end, or vanishes if anything goes wrong before.

    Raises InputError where `out` holds something, or does at the end: with `force` an older data set is replaced,
    nothing else ever is.
    """
    occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if occupied and not force:
        raise InputError(f"{out} exists and is not empty; choose another place, or replace the data set with --force")
    if occupied and not (out / MARK).is_file():
        raise InputError(
            f"{out} is not a data set of ours (it has no {MARK}), so --force leaves it; choose another place"
        )
    partial = out.parent / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _settle(partial, out, force=force)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; make room, or choose another place") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _settle(partial: Path, out: Path, *, force: bool) -> None:
    if force and out.exists():
        old = out.parent / f".{out.name}.{os.getpid()}.old.tmp"
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
        return
    try:
        if out.exists():
            out.rmdir()  # it was empty when this began
        partial.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise InputError(f"{out} was made by another process meanwhile, and is kept; choose another place") from None


def tasks(count: int, config: SceneConfig) -> list[tuple[bool, int, int]]:
    """Whether pairs, first and last scene of each chunk: `count` scenes, then as many pair scenes as test scenes."""
    held = sum(split_of(i) == "test" for i in range(count)) if config.max_drawings > 1 else 0
    return [(pairs, i, min(i + CHUNK, n)) for pairs, n in ((False, count), (True, held)) for i in range(0, n, CHUNK)]


def write_scenes(
    out: str | os.PathLike[str],
    config: SceneConfig,
    *,
    count: int,
    workers: int = 1,
    codec: str = "jpeg",
    force: bool = False,
    progress: Callable[[int], None] = lambda scenes: None,
) -> Summary:
    """Write `count` scenes and their held-out pairs to the directory `out`; the same bytes for any `workers`.

    `progress` is called with the number of scenes that were just finished. Raises InputError for bad arguments.
    """
    if count < 1:
        raise InputError(f"{count} scenes asked for; give --count 1 or more")
    make = functools.partial(make_chunk, config)
    about = {"made_by": "foveal data scenes", "count": count, "config": dump(config)}
    work = tasks(count, config)
    return write_set(out, make, work, about=about, workers=workers, codec=codec, force=force, progress=progress)


def write_set(
    out: str | os.PathLike[str],
    make: Make,
    work: Sequence[Any],
    *,
    about: dict[str, Any],
    splits: Sequence[str] = SPLITS,
    workers: int = 1,
    codec: str = "jpeg",
    force: bool = False,
    progress: Callable[[int], None] = lambda scenes: None,
) -> Summary:
    """Write what is made of each piece of work to the directory `out`; the same bytes for any `workers`.

    `about` says what the data are. Raises InputError for bad arguments.
    """
    if workers < 1:
        raise InputError(f"{workers} workers asked for; give 1 or more")
    if codec not in CODECS:
        raise unknown("image format", codec, CODECS)
    start, scenes, examples, cpu = time.perf_counter(), Counter(), Counter(), 0.0
    with whole_directory(Path(out), force=force) as folder:
        (folder / SHARED).mkdir()
        files = {split: open(folder / f"{split}.jsonl", "w", encoding="utf-8") for split in splits}  # noqa: SIM115
        try:
            for made, seconds in _chunks(functools.partial(make, str(folder), codec), work, workers, folder / SHARED):
                cpu += seconds
                for split, number, lines in made:
                    files[split].write(lines)
                    scenes[split] += 1
                    examples[split] += number
                progress(len(made))
        finally:
            for file in files.values():
                file.close()
        shutil.rmtree(folder / SHARED)
        (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n")
        (folder / MARK).write_text(json.dumps({**about, "attribution": ATTRIBUTION}, indent=1) + "\n")
    return Summary(
        scenes={s: scenes[s] for s in splits},
        examples={s: examples[s] for s in splits},
        seconds=time.perf_counter() - start,
        cpu_seconds=cpu,
    )


def start_worker(shared: Path) -> None:
    """Prepare a process: it shares its renderings, and leaves Ctrl-C to the process that began it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share(shared)


def _chunks(make: Callable[[Any], Chunk], work: Sequence[Any], workers: int, shared: Path) -> Iterator[Chunk]:
    if workers == 1:
        yield from map(make, work)
        return
    # Spawned, not forked: the caller may run threads (a progress bar does).
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker, initargs=(shared,)
    )
    try:
        yield from pool.map(make, work)
    finally:
        pool.shutdown(cancel_futures=True)
