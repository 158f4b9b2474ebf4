"""Questions on a starter scene: ten kinds, each answered by rule from the layout and asked only where it is clear."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from foveal.data import geometry
from foveal.data.drawings import article, plural
from foveal.data.layout import Item, Layout

Maker = Callable[[Layout, np.random.Generator], Iterator["Question"]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question: its kind, its form within the kind, words, answer, and the boxes that the answer rests on.

    `evidence` are places in the scene's list of boxes (drawings first, then words); `area` is the share of the canvas
    that they cover (0 to 1). `choices` are the answers to pick from, where it has them.
    """

    kind: str
    form: str
    text: str
    answer: str
    evidence: tuple[int, ...]
    area: float
    choices: tuple[str, ...] = ()


def _shuffled(rng: np.random.Generator, items: list) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _question(
    layout: Layout, rng: np.random.Generator, kind: str, form: str, texts: tuple[str, ...], answer: str, on: list[Item]
) -> Question:
    boxes = [*layout.drawings, *layout.words]
    places = tuple(i for i, box in enumerate(boxes) if any(box is item for item in on))
    text = texts[rng.integers(len(texts))]
    return Question(
        kind=kind, form=form, text=text, answer=answer, evidence=places, area=round(geometry.share(layout, on), 5)
    )


def _named(layout: Layout, name: str) -> list[Item]:
    return [i for i in layout.drawings if i.name == name]


def present(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Is there a ...? As often yes as no, and for each drawing: the words of the question say nothing."""
    pairs = [(layout.hero, layout.absent[0])]
    others = sorted({i.name for i in layout.drawings} - {layout.hero})
    if others:
        pairs.append((others[rng.integers(len(others))], layout.absent[1]))
    for asked in (name for pair in pairs for name in pair):
        found = _named(layout, asked)
        texts = (
            f"Is there {article(asked)} in the picture?",
            f"Do you see {article(asked)}?",
            f"Does the picture show {article(asked)}?",
        )
        yield _question(layout, rng, "present", "present", texts, "yes" if found else "no", found)


def region(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Which drawing is in a region of the 3x3 grid, where exactly one clearly is."""
    for place in _shuffled(rng, list(geometry.REGIONS)):
        item = geometry.alone_in(layout, list(layout.drawings), place)
        if item is not None:
            texts = (
                f"Which drawing is at the {place}?",
                f"Which drawing do you see at the {place} of the picture?",
                f"Name the drawing at the {place}.",
            )
            yield _question(layout, rng, "region", place, texts, item.name, [item])


def where(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Where is the ...? One of nine regions, of a drawing that is there once."""
    items = {i: c for i in geometry.singles(layout) if (c := geometry.clear_cell(layout, i))}
    for place in _shuffled(rng, list(geometry.REGIONS)):
        here = [i for i, c in items.items() if c == place]
        if here:
            item = here[rng.integers(len(here))]
            texts = (
                f"Where is the {item.name}?",
                f"In which part of the picture is the {item.name}?",
                f"Where do you see the {item.name}?",
            )
            yield _question(layout, rng, "where", "where", texts, place, [item])


def count(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """How many drawings are there: words do not count."""
    texts = ("How many drawings are there?", "How many drawings are in the picture?", "Count the drawings.")
    yield _question(layout, rng, "count", "count", texts, str(len(layout.drawings)), list(layout.drawings))


def count_kind(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """How many of one drawing are there: 0 to 5, equally often over all scenes."""
    if layout.copies is None:
        return
    name = layout.hero if layout.copies else layout.absent[0]
    found = _named(layout, name)
    if len(found) == layout.copies:
        many = plural(name)
        texts = (f"How many {many} are there?", f"How many {many} do you see?", f"Count the {many}.")
        yield _question(layout, rng, "count_kind", "count_kind", texts, str(len(found)), found)


def relation(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Which drawing is left of, right of, above or below another: clearly the nearest that way, and level with it."""
    for item in _shuffled(rng, geometry.singles(layout)):
        for direction in _shuffled(rng, list(geometry.DIRECTIONS)):
            target = geometry.towards(layout, item, direction)
            if target is not None:
                texts = (
                    f"Which drawing is {direction} the {item.name}?",
                    f"Which drawing is just {direction} the {item.name}?",
                    f"Name the drawing {direction} the {item.name}.",
                )
                yield _question(layout, rng, "relation", direction, texts, target.name, [target])
                break


def size(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Which drawing is the largest, or the smallest, by a clear margin."""
    for form in _shuffled(rng, ["largest", "smallest"]):
        item = geometry.extreme(layout, largest=form == "largest")
        if item is not None:
            texts = (f"Which drawing is the {form}?", f"Name the {form} drawing.", f"What is the {form} drawing?")
            yield _question(layout, rng, "size", form, texts, item.name, [item])


def word(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Read a word: the only one, or the one of a colour, or the one in a region."""
    words = list(layout.words)
    if len(words) == 1:
        texts = ("Which word is in the picture?", "What does the text say?", "Read the word.")
        yield _question(layout, rng, "word", "only", texts, words[0].name, words)
        return
    for item in _shuffled(rng, words):
        place = geometry.clear_cell(layout, item)
        if rng.random() < 0.5 and place and geometry.alone_in(layout, words, place) is item:
            texts = (f"Which word is at the {place}?", f"Read the word at the {place}.")
            yield _question(layout, rng, "word", "region", texts, item.name, [item])
        else:
            texts = (f"Which word is written in {item.ink}?", f"What does the {item.ink} word say?")
            yield _question(layout, rng, "word", "colour", texts, item.name, [item])


def next_to(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Which drawing is next to another: clearly its nearest."""
    for item in _shuffled(rng, geometry.singles(layout)):
        target = geometry.nearest(layout, item, [i for i in layout.drawings if i is not item])
        if target is not None:
            texts = (
                f"Which drawing is next to the {item.name}?",
                f"Which drawing is nearest to the {item.name}?",
                f"Name the drawing next to the {item.name}.",
            )
            yield _question(layout, rng, "next_to", "next_to", texts, target.name, [target])


def detail(layout: Layout, rng: np.random.Generator) -> Iterator[Question]:
    """Name a tiny drawing, one that covers less than 1% of the picture, by its region or by what it is next to."""
    small = geometry.tiny(layout)
    for item in _shuffled(rng, small):
        # What is not tiny by the number, but hardly larger, is a rival too.
        rivals = [i for i in layout.drawings if i.area < 3 * item.area or any(i is s for s in small)]
        place = geometry.clear_cell(layout, item)
        if place and geometry.alone_in(layout, rivals, place) is item:
            texts = (f"Which tiny drawing is at the {place}?", f"Name the tiny drawing at the {place}.")
            yield _question(layout, rng, "detail", "region", texts, item.name, [item])
            continue
        for other in _shuffled(rng, [i for i in geometry.singles(layout) if not any(i is r for r in rivals)]):
            if geometry.nearest(layout, other, rivals) is item:
                texts = (
                    f"Which tiny drawing is next to the {other.name}?",
                    f"Name the tiny drawing next to the {other.name}.",
                )
                yield _question(layout, rng, "detail", "next_to", texts, item.name, [item])
                break


MAKERS: dict[str, Maker] = {
    f.__name__: f for f in (present, region, where, count, count_kind, relation, size, word, next_to, detail)
}
KINDS: tuple[str, ...] = tuple(MAKERS)


def questions(layout: Layout, rng: np.random.Generator, per_kind: int) -> tuple[Question, ...]:
    """Up to `per_kind` questions of each kind (of `present`: as many pairs), in an order that says nothing."""
    made: list[Question] = []
    for make in MAKERS.values():
        for number, question in enumerate(make(layout, rng), start=1):
            made.append(question)
            if number == per_kind * (1 + (question.kind == "present")):
                break
    return tuple(_shuffled(rng, made))
