import json

import pytest

from foveal.core.example import Example
from foveal.evaluation.compare import compare, plain
from foveal.evaluation.questions import Question

KINDS = ["where", "count", "where", "count"]
ASKED = [
    Question(id=str(i), scene=str(i // 2), kind=kind, text="?", truth="yes", example=Example(id="", messages=()))
    for i, kind in enumerate(KINDS)
]


def test_plain_data_by_hand():
    row = plain(compare(ASKED, ["yes", "yes", "yes", "no"], {"majority": ["yes", "no", "no", "no"], "text_only": None}))
    assert row["exact_match"] == 0.75
    assert row["mean_over_kinds"] == pytest.approx(0.75)
    assert (row["majority"], row["text_only"], row["question_majority"]) == (0.25, None, None)
    where = row["kinds"]["where"]
    assert (where["accuracy"], where["count"], where["majority"], where["text_only"]) == (1.0, 2, 0.5, None)
    assert row["leads"]["majority"]["exact_match"]["value"] == 0.5
    assert (row["questions"], row["scenes"]) == (4, 2)
    assert row["interval"][0] <= 0.75 <= row["interval"][1]


def test_plain_data_are_json():
    row = plain(compare(ASKED, ["yes"] * 4, {"text_only": ["no"] * 4}))
    assert json.loads(json.dumps(row)) == row
    assert row["text_only"] == 0.0
    assert "majority" not in row["baselines"]
