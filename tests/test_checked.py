"""While tests run, a wrong type and a wrong shape are found where they are handed over."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from tests.checked import checked


@checked(typechecker=beartype)
def doubled(number: int) -> int:
    return 2 * number


@checked(typechecker=beartype)
def summed(one: Float[Tensor, "B N"], other: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    return (one + other).sum(-1)


@checked(typechecker=beartype)
def later(number: "int") -> int:
    return str(number)


def test_types_and_shapes_are_checked(monkeypatch):
    assert doubled(2) == 4 and summed(torch.ones(2, 3), torch.ones(2, 3)).tolist() == [6, 6]
    for wrong in (lambda: doubled("a"), lambda: summed(torch.ones(2, 3), torch.ones(2, 4)), lambda: later(1)):
        with pytest.raises(TypeError, match=r"violates type hint|Type-check error"):
            wrong()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert doubled("a") == "aa" and later(1) == "1"


def test_it_is_what_foveal_s_own_functions_are_checked_by():
    from foveal.decode.generate import spoken
    from foveal.layers.attention import attend

    assert jaxtyping.jaxtyped is checked
    with pytest.raises(TypeError, match="Type-check error"):
        attend(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match="violates type hint"):
        spoken(1, {2})
