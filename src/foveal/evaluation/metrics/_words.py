"""Captions as words, as COCO's caption tools see them: the rules of the Penn Treebank, without punctuation.

Those tools run Stanford's tokenizer; this is its behaviour on captions, rule by rule: clitics apart (`is n't`, `dog
's`), hyphens, slashes and numbers kept whole, brackets by their names.
"""

import re

from foveal.evaluation.words import is_mark

_APART = (
    (re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b"), r" \1"),
    (re.compile(r"\by'all\b"), "y' all"),
    (re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b"), lambda found: _pair(found)),
)
_NAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ABBREVIATED = "mr|mrs|ms|dr|st|vs|etc|jr|sr|prof|inc|co|corp|ltd|ave|blvd|mt|rd|ft"
_TOKEN = re.compile(
    rf"""
    https?://[^\s"<>]+ | </?[a-z][^<>]*>   # addresses, tags
    | (?:[a-z]\.)+[a-z]\.?(?!\w)           # u.s., p.m.
    | \b(?:{_ABBREVIATED})\. | \bno\.(?=\s*\d)
    | '\d\ds?\b | (?<!\w)'n'(?!\w)         # '57, rock 'n' roll
    | y'(?=\ all\b) | n't\b | '(?:s|re|ve|ll|d|m)\b        # clitics, set apart before
    | \d+(?:[.,:/-]\d+)*(?:(?![ap]\.m)\w|-\w)*    # 1,000, 10:30, 3-year-old, and 3 of 3p.m.
    | \.\d+
    | \w+(?:[-&/.']\w+)*                   # red/green, a&w, o'clock, grass.it
    | [?!]{{2,}}
    | [][(){{}}$%&\#@*+=/<>|~^\\]
    """,
    re.VERBOSE,
)


def _pair(found: re.Match[str]) -> str:
    return " ".join(part for part in found.groups() if part)


def words(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    text = caption.lower().replace("\u2019", "'")
    for pattern, apart in _APART:
        text = pattern.sub(apart, text)
    marked = "".join(
        "\u01c3" if is_mark(letter) else letter for letter in text
    )  # a letter to `re`, which marks are not
    found = [text[token.start() : token.end()] for token in _TOKEN.finditer(marked)]
    return [_NAMED.get(token, token) for token in found]


def ngrams(tokens: list[str], most: int = 4) -> list[tuple[str, ...]]:
    """All runs of 1 to `most` words."""
    return [tuple(tokens[at : at + n]) for n in range(1, most + 1) for at in range(len(tokens) - n + 1)]
