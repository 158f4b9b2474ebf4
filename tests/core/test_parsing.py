"""What files of others hold, and what is no such text."""

import pytest
import yaml

from foveal.core.errors import yaml_fault
from foveal.core.parsing import from_json, from_yaml


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (b'{"id": "\xff"}', "codec can't decode"),
        ("{", "Expecting property name"),
    ],
)
def test_what_is_no_json_is_a_value_error(text, why):
    with pytest.raises(ValueError, match=why):
        from_json(text)


def test_json_and_yaml_say_what_they_say():
    assert from_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert from_yaml("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [1, {b: 1}]") == {
        "a": {"b": 1},
        "c": {"b": 2},
        "d": [1, {"b": 1}],
    }


def test_a_key_that_stands_twice_is_told_with_its_line():
    with pytest.raises(yaml.YAMLError) as caught:
        from_yaml("training:\n  seed: 1\n  steps: 2\n  seed: 3\n")
    assert yaml_fault(caught.value) == "the key 'seed' stands twice in a mapping (line 4, column 3)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "value has 5000 digits$"),
        ("name: 2026-02-31", "day is out of range for month"),
    ],
)
def test_what_is_no_yaml_is_one_line(text, why):
    with pytest.raises(yaml.YAMLError, match=why):
        from_yaml(text)
