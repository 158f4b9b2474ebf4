"""What the page of `foveal app` may ask, checked: a picture, a question, and how to spend tokens on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foveal.cli._given import MOST_PIXELS, decoded, number, settings
from foveal.core.errors import InputError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 128  # tokens of an answer
WORDIEST = 4000  # letters of a question


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One side of a page: its run by number, and its tensions; no budget and no price is all tokens.

    The `page` counts the `turn`s in which it asks: what it asked in an earlier one it no longer wants to know.
    """

    picture: bytes
    name: str
    question: str
    run: int = 0
    strategy: str = "foveal"
    budget: int | None = None
    price: float | None = None
    explore: float | None = None
    temperature: float = 1.0
    max_new_tokens: int = 16
    page: str = ""
    turn: int = 0

    @property
    def tensions(self) -> dict[str, Any]:
        """The settings of relevance."""
        return {"explore": self.explore, "temperature": self.temperature}

    def opened(self) -> "Image":
        """The picture; raises InputError for what is none, or too large."""
        from foveal.preprocess.image import open_image

        return open_image(self.picture, name=self.name, limit=MOST_PIXELS)


def wish(body: bytes, *, runs: int, strategies: tuple[str, ...]) -> Wish:
    """The wish that a request's JSON holds; raises InputError, in a line to read on the page, for any other."""
    given = settings(body, "reload the page")
    question = given.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; write what you want to know, such as 'What is in the picture?'")
    if len(question) > WORDIEST:
        raise InputError(f"a question of {len(question)} letters; ask in at most {WORDIEST}")
    strategy = given.get("strategy") or "foveal"
    if strategy not in strategies:
        raise unknown("strategy", str(strategy), strategies)
    whole = {
        "run": number(given, "run", 0, 0, runs - 1),
        "budget": number(given, "budget", None, 1, 1_000_000),
        "max_new_tokens": number(given, "max_new_tokens", 16, 1, LONGEST),
        "turn": number(given, "turn", 0, 0, 2**53),
    }
    real = {
        "price": number(given, "price", None, 0, 1e12, whole=False),
        "explore": number(given, "explore", None, 0, 1, whole=False),
        "temperature": number(given, "temperature", 1.0, 0.01, 100, whole=False),
    }
    page = given.get("page")
    page = page[:80] if isinstance(page, str) else ""
    name = given.get("name")
    name = name[:80] if isinstance(name, str) and name.strip() else "the picture"
    return Wish(
        picture=_picture(given.get("picture")),
        name=name,
        question=question,
        strategy=strategy,
        page=page,
        **whole,
        **real,
    )


def _picture(given: Any) -> bytes:
    if not isinstance(given, str) or not given:
        raise InputError("there is no picture yet; drop one on the page")
    if (picture := decoded(given.rpartition(",")[2])) is None:
        raise InputError("the picture came damaged; drop it once more")
    return picture
