"""Questions are checked against a second reading of the boxes, which shares no rule with the one that made them."""

import math
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.data.drawings import names, plural
from foveal.data.geometry import REGIONS
from foveal.data.questions import KINDS
from foveal.data.scenes import SceneConfig, Scenes

ONE = {plural(name): name for name in names(200)}


def asked(question):
    """The drawing that a question is on."""
    found = [w for w in re.findall(r"[a-z]+", question.text.lower()) if w in ONE or w in ONE.values()]
    return ONE.get(found[-1], found[-1])


def middle(box):
    return (box.xyxy[0] + box.xyxy[2]) / 2, (box.xyxy[1] + box.xyxy[3]) / 2


def area(box):
    return (box.xyxy[2] - box.xyxy[0]) * (box.xyxy[3] - box.xyxy[1])


def place(box, size):
    column, row = (int(3 * c / s) for c, s in zip(middle(box), size, strict=True))
    return REGIONS[3 * row + column]


def between(one, other):
    across = max(one.xyxy[0] - other.xyxy[2], other.xyxy[0] - one.xyxy[2], 0)
    down = max(one.xyxy[1] - other.xyxy[3], other.xyxy[1] - one.xyxy[3], 0)
    return math.hypot(across, down)


def region_of(question):
    return next(r for r in sorted(REGIONS, key=len, reverse=True) if f"at the {r}" in question.text)


def check_relation(question, drawings):
    (item,) = [b for b in drawings if b.label == asked(question)]
    x, y = middle(item)
    ahead = {
        "left of": lambda a, b: (x - a, b - y), "right of": lambda a, b: (a - x, b - y),
        "above": lambda a, b: (y - b, a - x), "below": lambda a, b: (b - y, a - x),
    }[question.form]  # fmt: skip
    cone = {b: math.dist(middle(b), middle(item)) for b in drawings if ahead(*middle(b))[0] > abs(ahead(*middle(b))[1])}
    assert question.form in question.text
    assert min(cone, key=cone.__getitem__).label == question.answer


def check_next(question, drawings, size):
    item = next(b for b in drawings if b.label == asked(question))
    others = [b for b in drawings if b is not item]
    if question.kind == "detail":
        others = [b for b in others if area(b) < 0.01 * size[0] * size[1]]
    assert min(others, key=lambda b: between(b, item)).label == question.answer


def check(question, scene):
    drawings, words = [b for b in scene.boxes if not b.word], [b for b in scene.boxes if b.word]
    size, kind, answer = scene.image.size, question.kind, question.answer
    if kind == "present":
        assert answer == ("yes" if asked(question) in {b.label for b in drawings} else "no")
    elif kind == "count":
        assert answer == str(len(drawings))
    elif kind == "count_kind":
        assert answer == str(sum(b.label == asked(question) for b in drawings))
    elif kind == "where":
        (item,) = [b for b in drawings if b.label == asked(question)]
        assert answer == place(item, size)
    elif kind == "region":
        assert [b.label for b in drawings if place(b, size) == region_of(question)] == [answer]
    elif kind == "size":
        ordered = sorted(drawings, key=area)
        assert answer == ordered[-1 if "largest" in question.text else 0].label
    elif kind == "relation":
        check_relation(question, drawings)
    elif kind == "next_to" or (kind == "detail" and question.form == "next_to"):
        check_next(question, drawings, size)
    elif kind == "detail":
        tiny = [b for b in drawings if area(b) < 0.01 * size[0] * size[1]]
        assert [b.label for b in tiny if place(b, size) == region_of(question)] == [answer]
    elif kind == "word" and question.form == "only":
        assert [b.label for b in words] == [answer]
    elif kind == "word" and question.form == "region":
        assert [b.label for b in words if place(b, size) == region_of(question)] == [answer]
    else:
        assert question.form == "colour" and answer in {b.label for b in words}


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6), size=st.sampled_from([128, (150, 400)]), pairs=st.booleans())
def test_answers_follow_from_the_boxes(index, size, pairs):
    scene = Scenes(SceneConfig(seed=1, size=size, drawings=60, per_kind=4), pairs=pairs)[index]
    total = scene.image.width * scene.image.height
    for question in scene.questions:
        check(question, scene)
        on = [scene.boxes[i] for i in question.evidence]
        assert question.area == pytest.approx(sum(map(area, on)) / total, abs=1e-5)
        if question.kind in ("region", "relation", "size", "word", "next_to", "detail"):
            assert [b.label for b in on] == [question.answer]
        if question.kind == "detail":
            assert question.area < 0.01


@pytest.fixture(scope="module")
def answers():
    scenes = Scenes(SceneConfig(seed=3, size=128, drawings=60))
    found = defaultdict(list)
    for index in range(300):
        for question in scenes.questions(scenes.layout(index), index):
            found[question.kind].append(question)
    return found


def test_all_kinds_are_asked_often(answers):
    assert set(answers) == set(KINDS) and len(KINDS) >= 9
    assert all(len(found) > 150 for found in answers.values())


@pytest.mark.parametrize(
    ("kind", "bound"),
    [("present", 0.5), ("where", 0.17), ("count", 0.15), ("count_kind", 0.26), ("word", 0.05)]
    + [(kind, 0.06) for kind in ("region", "relation", "size", "next_to", "detail")],
)
def test_the_most_frequent_answer_earns_little(answers, kind, bound):
    counts = Counter(question.answer for question in answers[kind])
    assert max(counts.values()) / counts.total() <= bound


def test_the_words_of_present_say_nothing(answers):
    names_of = defaultdict(Counter)
    for question in answers["present"]:
        names_of[asked(question)][question.answer] += 1
    scheduled = sum(abs(c["yes"] - c["no"]) for c in names_of.values()) / len(answers["present"])
    assert len(names_of) == 60 and scheduled < 0.25


def test_no_question_is_asked_twice_of_one_scene():
    scenes = Scenes(SceneConfig(size=128, per_kind=3))
    for index in range(40):
        about = [(q.kind, q.text) for q in scenes[index].questions]
        assert len(set(about)) == len(about)
