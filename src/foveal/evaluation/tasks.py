"""How near what was told of a picture comes to what is so, where it is one box or a few words."""

from collections import Counter

from foveal.core.example import Box
from foveal.evaluation.words import plain


def overlap(first: Box, second: Box) -> float:
    """The area that two boxes share, over the area that they cover together: from 0 to 1, and 0 where there is none."""
    (left, top, right, bottom), (begin, high, end, low) = first.xyxy, second.xyxy
    shared = max(0.0, min(right, end) - max(left, begin)) * max(0.0, min(bottom, low) - max(top, high))
    covered = _area(first) + _area(second) - shared
    return shared / covered if covered else 0.0


def agreement(said: str, right: str) -> float:
    """The harmonic mean of the share of said words that are right, and of right words that are said (SQuAD's F1)."""
    mine, theirs = Counter(plain(said).split()), Counter(plain(right).split())
    shared = (mine & theirs).total()
    return 2 * shared / max(1, mine.total() + theirs.total())


def _area(box: Box) -> float:
    left, top, right, bottom = box.xyxy
    return (right - left) * (bottom - top)
