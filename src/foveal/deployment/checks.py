"""What clusters take as names, images and amounts, checked before anything is written."""

import re

from foveal.core.errors import InputError

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_HOST = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(  # as the reference grammar of registries has it
    rf"(?P<path>({_HOST}(\.{_HOST})*(:(?P<port>\d{{1,5}}))?/)?{_PART}(/{_PART})*)"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_LONGEST_IMAGE, _PORTS = 255, 1 << 16
_MOST = (1 << 31) - 1  # a cluster's whole numbers have 32 bits
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
LONGEST = 63  # letters of a name
GIB = 2**30


def label(option: str, name: str, *, room: int = 0) -> str:
    """The name, which is a DNS label with `room` for an end; raises InputError for any other."""
    if not _LABEL.fullmatch(name) or len(name) + room > LONGEST:
        told = f"{option} {name!r} is no name in a cluster; give a letter, then letters a to z, digits and dashes"
        raise InputError(f"{told}, {LONGEST - room} at most")
    return name


def labelled(words: str) -> str:
    """A name in a cluster that is like the words of a file's name."""
    found = re.sub(r"[^a-z0-9]+", "-", words.lower())[:40].strip("-")
    return found if _LABEL.fullmatch(found) else f"foveal-{found}".strip("-")


def image(name: str) -> str:
    """The name of an image; raises InputError for what is none."""
    found = _IMAGE.fullmatch(name)
    if not found or len(found["path"]) > _LONGEST_IMAGE or not 0 < int(found["port"] or 1) < _PORTS:
        raise InputError(f"--image {name!r} names no image; give one such as registry.example.com/foveal:1")
    return name


def memory(option: str, amount: str) -> int:
    """The bytes of an amount such as 8Gi; raises InputError for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", amount, re.ASCII)
    if not found or found[2] not in _UNITS or not (count := int(float(found[1]) * _UNITS[found[2]])):
        raise InputError(f"{option} {amount!r} is no amount of memory; give one such as 8Gi")
    return count


def cores(option: str, amount: str) -> float:
    """The processor cores of an amount such as 4 or 500m; raises InputError for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", amount, re.ASCII)
    if not found or not (count := float(found[1]) / (1000 if found[2] else 1)):
        raise InputError(f"{option} {amount!r} is no number of cores; give one such as 4, or 500m for half of one")
    return count


def gib(count: int | float) -> str:
    """Bytes as an amount of memory, in whole quarters of a GiB, rounded up."""
    quarters = -int(-count * 4 // GIB)
    return f"{quarters // 4}Gi" if quarters % 4 == 0 else f"{quarters * 256}Mi"


def whole(option: str, number: int, least: int) -> None:
    """Raise InputError for a number that is too small, and for one that no cluster takes."""
    if number < least:
        raise InputError(f"{option} {number}; give {least} or more")
    if number > _MOST:
        raise InputError(f"{option} {number} is more than a cluster counts; give {_MOST} or less")
