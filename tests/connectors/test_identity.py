import pytest

from foveal.connectors.identity import Identity
from foveal.core.errors import InputError


def test_widths_must_agree():
    with pytest.raises(InputError, match="vision has 8 and language 16; use linear or mlp"):
        Identity(width_in=8, width_out=16)
