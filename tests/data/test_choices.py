from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.data.choices import Pool, around
from foveal.data.geometry import REGIONS
from foveal.data.questions import KINDS
from foveal.data.scenes import SceneConfig, Scenes

PLAIN = SceneConfig(seed=3, size=128, drawings=60)
NAMED = ("region", "relation", "size", "next_to", "detail")


@pytest.fixture(scope="module")
def asked():
    """Questions by kind, each with what stands in its scene."""
    scenes, found = Scenes(replace(PLAIN, choices=4)), defaultdict(list)
    for index in range(400):
        layout = scenes.layout(index)
        present = {item.name for item in (*layout.drawings, *layout.words)}
        for question in scenes.questions(layout, index):
            found[question.kind].append((question, present))
    return found


def test_every_kind_of_enough_answers_has_choices_and_the_questions_stay_as_they_are(asked):
    for kind in KINDS:
        for question, _ in asked[kind]:
            assert len(question.choices) == len(set(question.choices)) == (0 if kind == "present" else 4)
            assert kind == "present" or question.answer in question.choices
    plain, chosen = Scenes(PLAIN), Scenes(replace(PLAIN, choices=4))
    for index in range(8):
        layout = plain.layout(index)
        bare = [replace(question, choices=()) for question in chosen.questions(layout, index)]
        assert bare == list(plain.questions(layout, index))
        assert chosen.questions(layout, index) == chosen.questions(layout, index)


def test_names_are_those_of_the_scene_first_and_never_what_is_asked_about(asked):
    pool = Pool(drawings=Scenes(PLAIN).drawings, words=Scenes(PLAIN).words, max_drawings=12)
    for kind in (*NAMED, "word"):
        known = set(pool.words if kind == "word" else pool.drawings)
        for question, present in asked[kind]:
            offered, named = set(question.choices), set(question.text.lower().rstrip("?.").split())
            assert offered <= known and not (offered & named)
            assert len(offered & present) == min(4, len((present & known) - named))
    assert all(set(question.choices) <= set(REGIONS) for question, _ in asked["where"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "present"])
def test_the_order_says_nothing(asked, kind):
    places = Counter(question.choices.index(question.answer) for question, _ in asked[kind])
    total = places.total()
    assert total > 200 and all(abs(places[place] / total - 0.25) < 0.08 for place in range(4))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "present"])
def test_who_sees_the_choices_alone_guesses_no_better_than_by_chance(asked, kind):
    """Bet on the choice that was right most often where it was offered, as learned from one half, on the other."""
    rows = [question for question, _ in asked[kind]]
    right, offered = Counter(), Counter()
    for question in rows[::2]:
        right[question.answer] += 1
        offered.update(question.choices)
    bets = [max(question.choices, key=lambda c: right[c] / max(offered[c], 1)) for question in rows[1::2]]
    hits = [bet == question.answer for bet, question in zip(bets, rows[1::2], strict=True)]
    assert np.mean(hits) < 0.25 + 3 * (0.25 * 0.75 / len(hits)) ** 0.5


def test_numbers_stand_anywhere_among_their_neighbours():
    known, rng = [str(number) for number in range(1, 13)], np.random.default_rng(0)
    begins = Counter()
    for _ in range(400):
        window = around(known, "1", 4, rng)
        assert window in [[known[(begin + step) % 12] for step in range(4)] for begin in range(-3, 1)]
        begins[window[0]] += 1
    assert set(begins) == {"10", "11", "12", "1"} and min(begins.values()) > 70


def test_two_choices_are_enough_for_yes_and_no():
    scenes = Scenes(replace(PLAIN, choices=2))
    kinds = defaultdict(set)
    for index in range(30):
        for question in scenes.questions(scenes.layout(index), index):
            kinds[question.kind].add(len(question.choices))
            assert question.kind != "present" or set(question.choices) == {"yes", "no"}
    assert kinds["present"] == kinds["region"] == {2}


def test_a_kind_of_too_few_answers_has_none():
    scenes = Scenes(SceneConfig(size=128, drawings=20, words=3, max_drawings=3, choices=4))
    for index in range(20):
        for question in scenes.questions(scenes.layout(index), index):
            few = question.kind in ("present", "count", "word")
            assert len(question.choices) == (0 if few else 4)


@pytest.mark.parametrize("number", [1, -2, 13])
def test_a_number_that_makes_no_sense_is_refused(number):
    with pytest.raises(InputError, match=f"{number} choices a question asked for"):
        SceneConfig(choices=number)
