import pytest

from foveal.core.errors import InputError
from foveal.core.lookup import build, class_name, names, spec


def test_a_file_is_a_component():
    assert {"linear", "mlp", "identity"} <= set(names("connectors"))
    connector = build("connectors", spec("connectors", {"name": "mlp", "depth": 3}), width_in=4, width_out=6)
    assert len(connector.maps) == 3


def test_unknown_component_has_a_hint():
    with pytest.raises(InputError, match="unknown component of connectors 'mpl'; did you mean 'mlp'"):
        spec("connectors", "mpl")


def test_a_nameless_component_is_refused():
    with pytest.raises(InputError, match="no component named"):
        spec("connectors", {"depth": 2})


def test_class_names():
    assert class_name("pixel_shuffle") == "PixelShuffle"


@pytest.mark.parametrize("given", [5, ["mlp"], None])
def test_what_is_no_component_is_told(given):
    with pytest.raises(InputError, match=r"connectors: .* is no component; give a name, or a mapping"):
        spec("connectors", given)


def test_the_names_of_llava_are_known():
    for name in ("mlp2x_gelu", {"name": "mlp2x_gelu"}):
        assert spec("connectors", name) == spec("connectors", {"name": "mlp", "depth": 2, "activation": "gelu"})
    assert spec("connectors", {"name": "mlp4x_gelu", "bias": False}).settings.depth == 4
    with pytest.raises(InputError, match="unknown component of heads 'mlp2x_gelu'"):
        spec("heads", "mlp2x_gelu")


def test_a_file_of_functions_has_settings_too():
    assert spec("training.objectives", "sequence").name == "sequence"
