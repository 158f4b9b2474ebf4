"""An answer's words as they grow: what can be told already, and where they end."""

from collections.abc import Sequence

_HALF = "\ufffd"  # what stands for a character of which some bytes are still to come


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of its stops, and whether it has one."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def sure(text: str, stops: Sequence[str]) -> str:
    """What no later token takes back: no half character, no beginning of a stop, no space that may be the last."""
    text = text.rstrip(_HALF)
    longest = max((len(stop) for stop in stops), default=0)
    for place in range(max(0, len(text) - longest + 1), len(text)):
        if any(stop.startswith(text[place:]) for stop in stops):
            text = text[:place]
            break
    return text.rstrip()


class Words:
    """The text so far (without outer space), how much of it has been told, and whether a stop has ended it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.text, self.told, self.stopped = tuple(stops), "", "", False

    def grow(self, text: str) -> str:
        """What can be told of a longer text that was not told yet."""
        self.text, self.stopped = cut(text.lstrip(), self.stops)
        known = self.text.rstrip() if self.stopped else sure(self.text, self.stops)
        return self._tell(known) if known.startswith(self.told) else ""

    def end(self) -> str:
        """The rest, when no token comes any more; all of it once more, on a new line, where it was rewritten."""
        self.text = self.text.rstrip()
        return self._tell(self.text) if self.text.startswith(self.told) else f"\n{self.text}"

    def _tell(self, known: str) -> str:
        new, self.told = known[len(self.told) :], known
        return new
