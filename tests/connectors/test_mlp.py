import pytest

from foveal.connectors.mlp import Mlp
from foveal.core.errors import InputError


def test_parameter_count_of_the_paper():
    assert sum(p.numel() for p in Mlp(width_in=1024, width_out=4096).parameters()) == 20_979_712


def test_depth_counts_linear_maps():
    assert [step.in_features for step in Mlp(width_in=8, width_out=16, depth=4).maps] == [8, 16, 16, 16]


def test_unknown_activation_has_a_hint():
    with pytest.raises(InputError, match="did you mean 'gelu'"):
        Mlp(width_in=8, width_out=16, activation="gelo")


def test_a_stack_of_nothing_is_told():
    with pytest.raises(InputError, match="a connector mlp of depth 0; give 1 or more"):
        Mlp(width_in=8, width_out=8, depth=0)
