import pytest
import yaml

from foveal.core.errors import nearest, yaml_fault


@pytest.mark.parametrize(("name", "meant"), [("LLaVA", "llava"), ("lava", "llava"), ("Blip-2", "blip2"), ("x", None)])
def test_the_nearest_name_in_capitals_or_not(name, meant):
    assert nearest(name, ["llava", "blip2", "flamingo"]) == meant
    assert nearest("Llava", ["LLAVA"]) == "LLAVA"


def test_what_is_wrong_with_yaml_and_where():
    with pytest.raises(yaml.YAMLError) as told:
        yaml.safe_load("a: 1\nb: {c: [1, 2}\n")
    line = yaml_fault(told.value)
    assert line.endswith("(line 2, column 13)") and "\n" not in line
    assert yaml_fault(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")).startswith("'utf-8' codec")
