"""Conversations prompted together: what each costs is what it costs alone."""

import pytest
from PIL import Image

from foveal.models.talk import prompted
from foveal.preprocess.chat import question
from tests.cli.test_app_desk import FAMILIES, QUESTION, made

SHOWN = [Image.new("RGB", size, colour) for size, colour in (((20, 14), "red"), ((9, 30), "blue"), ((16, 16), "green"))]
ASKED = [question(SHOWN[:1], QUESTION), question(SHOWN[1:], QUESTION), question([], QUESTION)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("budget", [None, 3, 60])
def test_together_costs_what_it_costs_alone(name, budget):
    run = made(name)
    asked = ASKED[:2] if name == "chosen" else ASKED
    *_, together = prompted(run.model, run.processor, asked, budget, "foveal", room=4)
    alone = [prompted(run.model, run.processor, [one], budget, "foveal", room=4)[2][0] for one in asked]
    assert together == alone and together[1].visual_tokens > together[0].visual_tokens > 0
    assert [bool(one.note) for one in together] == [bool(budget == 60 and one.visual_tokens) for one in together]
    said = run.answer(SHOWN[:1], QUESTION, budget=budget, max_new_tokens=1)
    assert (said.visual_tokens, said.note) == (together[0].visual_tokens, together[0].note)


def test_a_strategy_without_a_budget_is_noted_for_each():
    run = made("prefix")
    *_, costs = prompted(run.model, run.processor, ASKED, None, "average_pool", room=4)
    assert all("give a budget" in cost.note for cost in costs)
