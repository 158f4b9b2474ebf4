"""Weights laid out once as oneDNN reads them fastest: for answering on a CPU in float32, at the same precision.

One token at a time is bound by reading the weights, and packed ones are read in a quarter less time than plain ones.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.linear import onednn_is_faster

M = TypeVar("M", bound=nn.Module)

_LARGE = 1 << 17  # entries below which a call costs more than its reading
_ROWS = 64  # the layout for so many tokens at once is near the best for one and for a thousand


class Packed(nn.Module):
    """What a linear map becomes `[*batch I]` to `[*batch O]`; copied, saved and loaded as the plain one.

    Off the CPU, in another precision, under autocast and where a gradient passes, it multiplies as the plain one does.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = plain.in_features, plain.out_features, plain.bias
        self._hold(plain.weight.detach())

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The plain weight, laid out anew at each call; to change it changes nothing."""
        return self.packed.to_dense()

    def forward(self, hidden: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Multiply, and add the bias."""
        if not self.packed.is_mkldnn or not _packs(hidden):
            return F.linear(hidden, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._hold(self.packed)

    def _hold(self, weight: Tensor) -> None:
        packs = torch.backends.mkldnn.is_available() and _plain(weight)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if packs else weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        super()._apply(fn, recurse)
        self._hold(fn(self.weight))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *given: Any) -> None:
        # a parameter for as long as it takes: what does not fit is told as of any other
        self._parameters["weight"] = nn.Parameter(self.weight, requires_grad=False)
        super()._load_from_state_dict(*given)
        weight = self._parameters.pop("weight")
        assert weight is not None
        self._hold(weight.detach())


def pack(model: M) -> M:
    """Pack the large linear maps of `model` in place; it answers and is saved as before, and its weights train no more.

    Tied weights, and all where oneDNN is not faster, stay as they are. What is packed counts no more among the
    parameters.
    """
    model.requires_grad_(False)
    if not onednn_is_faster():
        return model
    names: dict[int, int] = {}
    for _, weight in model.named_parameters(remove_duplicate=False):
        names[id(weight)] = names.get(id(weight), 0) + 1
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and names.get(id(child.weight)) == 1 and _gains(child.weight):
                setattr(parent, name, Packed(child))
    return model


def _gains(weight: Tensor) -> bool:
    return weight.numel() >= _LARGE and _plain(weight)


def _packs(hidden: Tensor) -> bool:
    learns = hidden.requires_grad and torch.is_grad_enabled()  # oneDNN's product passes no gradient on
    return _plain(hidden) and not learns and not torch.is_autocast_enabled("cpu")


def _plain(values: Tensor) -> bool:
    return values.dtype == torch.float32 and values.device.type == "cpu"
