"""WebDataset shards: plain tar files where an example is a .json member and the images that it names, one key long."""

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import FEATURES, Example, Held
from foveal.core.parsing import from_json
from foveal.data.format import Checker, encode
from foveal.data.halves import refuse
from foveal.data.media import markers, size
from foveal.preprocess.image import begun

_BLOCKS = 1 << 20  # bytes


def read_shard(path: str | os.PathLike[str]) -> Iterator[Example]:
    """The examples of a shard, each checked as in `format.read`; their images are held pictures.

    `images` of a .json member name members of the same key (`0007.jpg`, `0007.1.jpg`); where it is lacking, they are
    all of them in order that end as images do. Raises InputError with shard and member.
    """
    place = Path(path)
    try:
        with tarfile.open(place) as tar:
            for key, members in samples(tar):
                yield example(key, members, f"{place}:{key}")
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")  # not all ways of unpacking it
        raise InputError(f"cannot read the shard {place} ({why}); it must be a whole tar file") from None


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError for members that nobody has read: the library takes any block that is no head for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    blocks = iter(lambda: tar.fileobj.read(_BLOCKS), b"")  # type: ignore[union-attr]
    rest = next(blocks, b"")
    if len(rest) < tarfile.BLOCKSIZE or any(rest) or any(map(any, blocks)):
        raise tarfile.ReadError(f"no end where its members end, at byte {tar.offset}")


def samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members that follow each other under one key (the name up to the first dot of its last part).

    What hides (`._7.png`, as macOS packs it) is no member; one that comes again begins another sample.
    """
    last, members = "", {}
    for info in tar:
        stream = tar.extractfile(info)
        folder, _, name = info.name.rpartition("/")
        if stream is None or name.startswith("."):
            continue
        key = os.path.join(folder, name.partition(".")[0])
        if members and (key != last or name in members):
            yield last, members
            members = {}
        last, members[name] = key, stream.read()
    if members:
        yield last, members


def example(key: str, members: dict[str, bytes], where: str) -> Example:
    """The example of one key."""
    heads = [name for name in members if name.endswith(".json")]
    if len(heads) != 1:
        raise InputError(f"{where}: {len(heads)} .json members; a key has one")
    try:
        row = from_json(members[heads[0]])
    except ValueError as error:
        raise InputError(f"{where}: {heads[0]} is not JSON ({error}); mend or remove it") from None
    refuse(row, where)
    if isinstance(row, dict):
        row.setdefault("id", key)
        row.setdefault("images", [name for name in members if _pictured(name)])
    check = Checker(root=Path(), exists=members.__contains__, size=lambda name: size(held(members[name], where, name)))
    found = check.example(row, where)
    _check_pictures(found, where)
    return replace(found, images=tuple(held(members[str(name)], where, str(name)) for name in found.images))


def _pictured(name: str) -> bool:
    """Whether a member ends as an image does: `7.txt` and `7.cls` beside it say something else of the sample."""
    if not Image.registered_extensions():
        Image.init()
    return os.path.splitext(name)[1].lower() in Image.registered_extensions()


def held(data: bytes, where: str, name: str = "") -> Held:
    """A picture whose head reads; raises InputError for any other."""
    try:
        begun(io.BytesIO(data), f"an image, {name}" if name else "an image").close()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Held(data)


def write_shard(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Write examples whose images are files to one shard and return how many; it appears whole or not at all."""
    place, number = Path(path), 0
    partial = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(partial, "w") as tar:
            for number, one in enumerate(examples, start=1):
                _check_pictures(one, f"example {one.id!r}")
                names = [f"{number:08d}.{i}{Path(image).suffix}" for i, image in enumerate(one.images)]
                line = encode(replace(one, images=tuple(map(Path, names))), Path()).encode()
                for name, data in [(f"{number:08d}.json", line), *zip(names, map(_bytes, one.images), strict=True)]:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
    return number


def _check_pictures(one: Example, where: str) -> None:
    if one.features or any(str(name).endswith(FEATURES) for name in one.images):
        raise InputError(f"{where}: a shard holds no files of region features; keep these beside a .jsonl file")
    if "video" in markers(one.messages):
        raise InputError(f"{where}: a shard holds no videos; keep these beside a .jsonl file")


def _bytes(image: Path) -> bytes:
    return Path(image).read_bytes()
