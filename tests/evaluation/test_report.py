from base64 import b64decode
from html.parser import HTMLParser

import pytest

from foveal.core.example import Example
from foveal.evaluation.questions import Question
from foveal.evaluation.report import Picture, Reply, Report, page
from foveal.evaluation.score import lead, score

VOID = {"meta", "img", "br", "link", "input"}


class Read(HTMLParser):
    """What a browser sees: elements that close in order, their attributes, and the words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.words.append(data.strip())


def example_report(**changes):
    kinds = ["where", "count", "where", "count"]
    asked = [
        Question(id=str(i), scene=str(i), kind=kind, text="?", truth="yes", example=Example(id="", messages=()))
        for i, kind in enumerate(kinds)
    ]
    ours, theirs = ["yes", "yes", "yes", "no"], ["no", "yes", "no", "no"]
    parts = {
        "title": "Trained <here>",
        "summary": "In a few minutes & on two cores.",
        "scores": score(asked, ours),
        "baselines": {"text_only": score(asked, theirs), "majority": score(asked, theirs)},
        "leads": {"majority": lead(asked, ours, theirs)},
        "losses": {"all": [(0, 3.0), (1, 2.0), (2, 1.0)]},
        "pictures": [
            Picture(
                jpeg=b"\xff\xd8 a picture",
                about='a "fox"',
                replies=(
                    Reply(question="Where is the fox?", answer="<script>alert(1)</script>", truth="top", right=False),
                    Reply(question="How many?", answer="2", truth="2", right=True),
                    Reply(question="And?", answer="", truth="3", right=False),
                ),
            )
        ],
        "made": {"recipe": "demo", "seed": "0"},
        "attribution": "Drawings: OpenMoji, CC BY-SA 4.0.",
    }
    return Report(**{**parts, **changes})


def test_everything_is_shown():
    words = " ".join(Read(page(example_report())).words)
    for text in (
        "Trained <here>",
        "on two cores",
        "75.0%",
        "25.0%",
        "+50.0",
        "where",
        "Where is the fox?",
        "truth: top",
        "demo",
        "CC BY-SA 4.0",
        "(silence)",
    ):
        assert text in words


def test_it_opens_without_a_network():
    seen = Read(page(example_report()))
    assert {tag for tag, _ in seen.elements}.isdisjoint({"script", "link", "iframe", "object"})
    sources = [attributes[name] for _, attributes in seen.elements for name in ("src", "href") if name in attributes]
    assert sources and all(source.startswith("data:") for source in sources)
    assert "url(" not in page(example_report()) and "@import" not in page(example_report())


def test_the_picture_is_inside():
    (image,) = [attributes for tag, attributes in Read(page(example_report())).elements if tag == "img"]
    assert b64decode(image["src"].partition("base64,")[2]) == b"\xff\xd8 a picture"
    assert image["alt"] == 'a "fox"'


def test_right_and_wrong_differ_by_more_than_colour():
    words = Read(page(example_report())).words
    assert words.count("\u2713") == 1 and words.count("\u2717") == 2
    assert words.count("right:") == 1 and words.count("wrong:") == 2


@pytest.mark.parametrize("part", ["baselines", "leads", "losses", "pictures", "made"])
def test_what_is_not_there_is_not_mentioned(part):
    empty = page(example_report(**{part: type(getattr(example_report(), part))()}))
    headings = {"losses": "How it learned", "pictures": "What it saw", "made": "How it was made"}
    said = {"baselines": "trained without images", "leads": "points ahead", **headings}[part]
    assert said in page(example_report())
    assert said not in empty
    Read(empty)


def test_the_page_is_the_same_each_time():
    assert page(example_report()) == page(example_report())
