"""Features of a frozen encoder, computed once for each image and read from files at every step.

A store belongs to one encoder and one way of preparing images (its name is their fingerprint); an image is known by
path, size and time of change. Shards appear whole or not at all, so an interrupted encoding goes on where it stopped.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.core.machine import cores
from foveal.core.types import Cut, Grid, Layout, Pixels, VisualTokens
from foveal.preprocess.image import Part, Whole
from foveal.training.checkpoint import fingerprint

SHARD = 256  # images
_KNOWN = {"foveal", "torch", *sys.stdlib_module_names}  # whose classes are no stranger's
_OPENERS = 16  # batches of images that are open at once, at most
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_RAW = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}  # numpy has no bfloat16

Progress = Callable[[int], None]  # images just done


def identity(encoder: nn.Module, **settings: Any) -> str:
    """The name of the store for an encoder's weights and whatever else its features depend on.

    Of parts that are not Foveal's own it is also the files of their classes, and of buffers those that are not saved.
    """
    described = json.dumps(settings, sort_keys=True, default=str)
    tensors, strange = {**dict(encoder.named_buffers()), **encoder.state_dict()}, _strange(encoder)
    described += json.dumps(strange) if strange else ""
    return hashlib.sha256((fingerprint(tensors) + described).encode()).hexdigest()[:20]


def _strange(encoder: nn.Module) -> list[str]:
    """Fingerprints of the files that others wrote the classes of an encoder's parts in."""
    kinds = {kind for part in encoder.modules() for kind in type(part).__mro__}
    modules = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in _KNOWN}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return sorted(
        hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file and Path(file).is_file()
    )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an image's rows are: those of its tiles one after the other, each on the grid, where it is `cut`."""

    shard: str
    start: int
    count: int
    grid: Grid | None
    frames: int = 1
    cut: Cut | None = None


@dataclass
class Store:
    """Features in `folder`: `widths` of the features and of every other level, side by side in a row of a token."""

    folder: Path
    dtype: str = "fp16"
    widths: tuple[int, ...] = ()
    places: dict[str, _Place] = field(default_factory=dict)
    shards: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": {}}  # each process maps the files itself

    def refresh(self) -> None:
        """Read the index of every whole shard; what was damaged since is forgotten, and said."""
        for path in sorted(self.folder.glob("*.json")):
            index = _index(path, np.dtype(_RAW[self.dtype]).itemsize)
            if index is None:
                path.unlink(missing_ok=True)
                warnings.warn(f"features in {path.with_suffix('.bin')} are damaged; they are made anew", stacklevel=2)
            else:
                self._know(path.stem, index)

    def _know(self, shard: str, index: Mapping[str, Any]) -> None:
        self.widths, start = tuple(index["widths"]), 0
        for key, count, grid, *more in index["images"]:  # the number of frames of videos, and how an image is cut
            frames, cut = [*more, *(1, None)[len(more) :]]
            self.places[key] = _Place(
                shard=shard,
                start=start,
                count=count,
                grid=tuple(grid) if grid is not None else None,
                frames=frames,
                cut=parse(Cut, cut, where=f"{self.folder / shard}.json") if cut is not None else None,
            )
            start += count

    def missing(self, images: Sequence[Any]) -> list[Any]:
        """The distinct images whose features are not there yet, in order."""
        wanted = {image_key(image): image for image in images}
        return [image for key, image in wanted.items() if key not in self.places]

    def __call__(self, images: Sequence[Any]) -> VisualTokens:
        """The features of these images in order, in float32; raises InputError for one that was never encoded."""
        places = [self._place(image) for image in images]
        layout = _layout(places)
        rows = np.empty((layout.total, sum(self.widths)), dtype=_RAW[self.dtype])
        ends = accumulate((place.count for place in places), initial=0)
        for place, (begin, end) in zip(places, pairwise(ends), strict=True):
            rows[begin:end] = self._rows(place.shard)[place.start : place.start + place.count]
        features, *levels = torch.from_numpy(rows).view(_TYPES[self.dtype]).float().split(self.widths, dim=1)
        seen = VisualTokens.on_layout(features.contiguous(), layout, tuple(level.contiguous() for level in levels))
        cuts = tuple(place.cut for place in places if place.cut is not None)
        return replace(seen, cuts=cuts) if cuts else seen

    def _place(self, image: Any) -> _Place:
        place = self.places.get(image_key(image))
        if place is None:
            raise InputError(f"no features of {image} in {self.folder}; it is new or has changed: train again")
        return place

    def _rows(self, shard: str) -> np.ndarray:
        if shard not in self.shards:
            flat = np.memmap(self.folder / f"{shard}.bin", dtype=_RAW[self.dtype], mode="r")
            self.shards[shard] = flat.reshape(-1, sum(self.widths))
        return self.shards[shard]

    def add(self, encoded: Sequence[tuple[str, VisualTokens]]) -> None:
        """Write a shard of images with their features; raises InputError for what the store's type does not hold."""
        rows = [torch.cat([seen.features, *seen.levels], dim=1).to(_TYPES[self.dtype]) for _, seen in encoded]
        self._check_held(encoded, rows)
        _make(self.folder)
        widths = [encoded[0][1].features.shape[1], *(level.shape[1] for level in encoded[0][1].levels)]
        images = [(key, seen.layout.total, seen.layout.grids[0], *_more(seen)) for key, seen in encoded]
        name = hashlib.sha256("".join(key for key, _ in encoded).encode()).hexdigest()[:16]
        _put(self.folder / f"{name}.bin", torch.cat(rows).cpu().contiguous().view(torch.uint8).numpy().data)
        index = {"widths": widths, "images": images}
        _put(self.folder / f"{name}.json", json.dumps(index).encode())
        self._know(name, index)

    def _check_held(self, encoded: Sequence[tuple[str, VisualTokens]], rows: Sequence[Tensor]) -> None:
        if all(torch.stack([stored.isfinite().all() for stored in rows]).tolist()):
            return
        for (_, seen), stored in zip(encoded, rows, strict=True):
            given = torch.cat([seen.features, *seen.levels], dim=1)
            lost = given.isfinite() & ~stored.isfinite()
            if lost.any():
                raise InputError(
                    f"a feature is {given[lost][0].item():g}, and {self.dtype} holds up to "
                    f"{torch.finfo(stored.dtype).max:g}; set training.features.dtype to bf16 or fp32"
                )


def _index(path: Path, size: int) -> dict[str, Any] | None:
    """What a shard holds, in numbers of so many bytes; None where its index or its rows are not whole.

    Rows are written before their index, each file in one stroke: what is not whole is no shard that is being made.
    """
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = sum(count for _, count, *_ in index["images"])
        whole = path.with_suffix(".bin").stat().st_size == rows * sum(index["widths"]) * size
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return index if whole else None


def _more(seen: VisualTokens) -> list[Any]:
    """What else an image's entry in the index says: nothing, its number of frames, or also how it is cut."""
    frames = list(seen.layout.frames or ())
    return frames if seen.cuts is None else [*(frames or [1]), dump(seen.cuts[0])]


def _layout(places: Sequence[_Place]) -> Layout:
    frames = tuple(place.frames for place in places)
    tiles = [place.cut.tiles if place.cut else 1 for place in places]
    return Layout(
        counts=tuple(place.count // n for place, n in zip(places, tiles, strict=True) for _ in range(n)),
        grids=tuple(place.grid for place, n in zip(places, tiles, strict=True) for _ in range(n)),
        frames=frames if any(number > 1 for number in frames) else None,
    )


def image_key(image: Any) -> str:
    """An image file, or a directory of frames, as it is now; raises InputError for a picture that is no file."""
    if isinstance(image, Whole):
        return f"{image_key(image.image)}:whole"
    if isinstance(image, Part):
        return f"{image_key(image.image)}:part {image.number}"
    if not isinstance(image, str | os.PathLike):
        raise InputError("features are cached for image files alone; give paths, or training.features=null")
    try:
        known = os.stat(image)
        if S_ISDIR(known.st_mode):
            frames = sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in os.scandir(image))
            return f"{os.path.abspath(image)}:{hashlib.sha256(str(frames).encode()).hexdigest()[:16]}"
    except OSError as error:
        raise InputError(f"cannot read the image {os.fspath(image)} ({error.strerror}); mend the data") from None
    return f"{os.path.abspath(image)}:{known.st_size}:{known.st_mtime_ns}"


def _put(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all; raises InputError where the disk is full."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        os.unlink(partial)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise InputError(f"no space left in {path.parent} for cached features; free some and train again") from None
        raise


@torch.no_grad()
def fill(
    store: Store,
    images: Sequence[Any],
    *,
    encoder: Callable[[Pixels], VisualTokens],
    look: Callable[[Sequence[Any]], Pixels],
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    batch_size: int = 32,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda images: None,
) -> None:
    """Encode what is missing of these images (opened by `look` while batches before are encoded).

    The `encoder` joins the frames of a video, and says of which images its tiles are.

    Raises InputError where the disk has no room for all of them, before most of the work is done.
    """
    wanted = store.missing(images)
    waiting: list[tuple[str, VisualTokens]] = []
    device = torch.device(device)
    half = torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    for done, (chosen, pixels) in _looked(wanted, look, batch_size):
        with half:
            seen = encoder(pixels.to(device))
        if not waiting and done == len(chosen):
            _check_room(store, seen, share=len(wanted) / len(chosen), total=len(wanted), say=say)
        waiting += zip(map(image_key, chosen), _each(seen), strict=True)
        if len(waiting) >= SHARD or done == len(wanted):
            store.add(waiting)
            waiting = []
        progress(len(chosen))


def _looked(
    images: Sequence[Any], look: Callable[[Sequence[Any]], Pixels], batch_size: int
) -> Iterator[tuple[int, tuple[Sequence[Any], Pixels]]]:
    """Batches of images with their pixels, and how many images are in them and those before.

    They are opened ahead by all cores of this process but one, for an accelerator encodes faster than a core opens.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    openers = max(1, min(_OPENERS, _threads() - 1))
    done = 0
    with ThreadPoolExecutor(max_workers=openers) as pool:
        coming = deque(pool.submit(look, batch) for batch in batches[:openers])
        for i, batch in enumerate(batches):
            pixels = coming.popleft().result()
            coming.extend(pool.submit(look, later) for later in batches[i + openers : i + openers + 1])
            done += len(batch)
            yield done, (batch, pixels)


def _threads() -> int:
    world = os.environ.get("LOCAL_WORLD_SIZE")  # a launcher leaves torch one thread in each of its processes
    return torch.get_num_threads() if world is None else cores() // int(world)


def _each(seen: VisualTokens) -> list[VisualTokens]:
    """The tokens of each image by itself. Raises InputError for tokens that lie where no plain layout says."""
    plain = VisualTokens.on_layout(seen.features, seen.layout)
    if not torch.allclose(seen.boxes.float(), plain.boxes, atol=1e-5) or not torch.equal(seen.mass.float(), plain.mass):
        raise InputError("cached features hold one token a grid cell, and this encoder's lie elsewhere; turn them off")
    parts, entry, bounds = [], 0, seen.layout.offsets
    for cut in seen.cuts or (None,) * len(seen.layout.counts):
        tiles = cut.tiles if cut else 1
        own, mine = slice(bounds[entry], bounds[entry + tiles]), slice(entry, entry + tiles)
        frames = None if seen.layout.frames is None else seen.layout.frames[mine]
        layout = Layout(counts=seen.layout.counts[mine], grids=seen.layout.grids[mine], frames=frames)
        levels = tuple(level[own] for level in seen.levels)
        part = VisualTokens.on_layout(seen.features[own], layout, levels)
        parts.append(replace(part, cuts=(cut,)) if cut else part)
        entry += tiles
    return parts


def _check_room(store: Store, seen: VisualTokens, *, share: float, total: int, say: Callable[[str], None]) -> None:
    width = seen.features.shape[1] + sum(level.shape[1] for level in seen.levels)
    needed = share * seen.layout.total * width * _TYPES[store.dtype].itemsize
    _make(store.folder)
    free = shutil.disk_usage(store.folder).free
    say(f"features of {total:,} images take {_size(needed)} in {store.folder} ({_size(free)} free)")
    if needed > free:
        raise InputError(
            f"features of {total:,} images take {_size(needed)}, but {_size(free)} are free in {store.folder}; "
            "free some, store them as fp16, or turn cached features off"
        )


def _make(folder: Path) -> None:
    """Make the directory; raises InputError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"cannot write features to {folder} ({error.strerror}); give training.features.folder another place"
        ) from None


def _size(count: int | float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
