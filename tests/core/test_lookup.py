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
