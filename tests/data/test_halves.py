"""Half characters are found wherever they stand, and whole ones are none."""

import json

import pytest

from foveal.core.errors import InputError
from foveal.data.halves import SPELLED, refuse


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'{"a": [{"text": "x \ud800"}]}', r"there: a\[0\].text holds half a character \('.ud800'\); mend or remove"),
        (r'{"a": "\uDe00 x"}', r"there: a holds half a character \('.ude00'\)"),
        (r'{"a": {"b\udfff": 1}}', "there: the name .* holds half a character"),
        (r'"\ud83e"', "there: it holds half a character"),
    ],
)
def test_half_a_character_is_told_with_its_field(line, message):
    assert SPELLED.search(line) and SPELLED.search(json.dumps(json.loads(line), ensure_ascii=False))
    with pytest.raises(InputError, match=message) as caught:
        refuse(json.loads(line), "there")
    assert str(caught.value).isascii()


def test_whole_characters_pass():
    refuse(json.loads(r'{"a": ["\ud83e\udd8a", 1, null, {"b": true}]}'), "there")
    assert not SPELLED.search("plain \\u00e9 \u20ac")
