import pytest

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.evaluation.wishes import wishes


def wish(number, name, *, answer=({"type": "image"},), boxes=1):
    messages = (
        {"role": "user", "content": [{"type": "text", "text": f"Draw a {name}."}]},
        {"role": "assistant", "content": list(answer)},
    )
    box = Box(label=name, xyxy=(0.0, 0.0, 1.0, 1.0))
    return Example(id=str(number), messages=messages, images=("x.png",), boxes=(box,) * boxes)


def test_things_are_wished_for_in_turn():
    data = [wish(i, name) for i, name in enumerate(["fox", "fox", "fox", "car", "car"])]
    assert [(one.id, one.truth) for one in wishes(data, limit=4)] == [
        ("3", "car"),
        ("0", "fox"),
        ("4", "car"),
        ("1", "fox"),
    ]
    assert wishes(data, limit=9)[0].text == "Draw a car." and len(wishes(data, limit=9)) == 5


def test_what_is_answered_in_words_or_shows_several_things_is_no_wish():
    others = [wish(0, "fox", answer=[{"type": "text", "text": "yes"}]), wish(1, "fox", boxes=2)]
    assert [one.id for one in wishes([*others, wish(2, "fox")], limit=9)] == ["2"]
    with pytest.raises(InputError, match="wish for no picture"):
        wishes(others, limit=9)
