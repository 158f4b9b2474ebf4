"""Texts as words that can be compared: without case and punctuation, yet with all that tells one word from another."""

import re
import unicodedata

_APOSTROPHES = re.compile("['\u2019`]")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_OTHER = re.compile(r"[^\w\s.-]|_")
# What comes now is for texts of words, spaces, points, hyphens, and symbols or marks, which are [^\w\s.-] there.
_HYPHEN = re.compile(r"(?<=[^\s.<>=+~$\u20ac\u00a3-])-|-(?![^\w\s.-]?\.?\d)")  # any but the minus of -3, -$3 and <-3
_LOOSE = re.compile(r"(?<![^\s.-])[^\w\s.-]+(?![^\s.-]|-?\.?\d)")
_POINT = re.compile(r"\.(?!\d)|(?<=[^\W\d])\.|(?<=\.)\.")  # any but the decimal point of 3.5 and .5


def is_mark(letter: str) -> bool:
    """Whether a character is no letter and yet part of a word: accents, and the vowels and tones of many scripts."""
    return unicodedata.category(letter).startswith("M")


def plain(text: str) -> str:
    """The words of a text in lower case, parted by single spaces.

    Apostrophes vanish, and commas that part thousands; all other punctuation is a space, but for the minus and the
    point of a number. Symbols, and #, stay where they touch a letter or a digit: C#, <5, $5.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-")
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("", text)).casefold()  # what was apart may compose now
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = _OTHER.sub(lambda found: found[0] if _stays(found[0]) else " ", text)
    for pattern in (_HYPHEN, _LOOSE, _POINT):
        text = pattern.sub(" ", text)
    return " ".join(text.split())


def _stays(letter: str) -> bool:
    return letter == "#" or unicodedata.category(letter)[0] in "MS"
