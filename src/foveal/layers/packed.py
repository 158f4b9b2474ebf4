"""Weights laid out once as oneDNN reads them fastest: for answering on a CPU in float32, at the same precision.

One token at a time is bound by reading the weights, and packed ones are read in a quarter less time than plain ones.
"""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.linear import onednn_is_faster

M = TypeVar("M", bound=nn.Module)

_LARGE = 1 << 17  # entries below which a call costs more than its reading
_ROWS = 64  # the layout for so many tokens at once is near the best for one and for a thousand


class Packed(nn.Module):
    """What a linear map becomes; its state dict holds the plain weight."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), _ROWS)
        self.bias = plain.bias

    def forward(self, hidden: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Multiply, and add the bias."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.packed.to_dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)


def pack(model: M) -> M:
    """Pack the large linear maps of `model` in place; it answers and is saved as before, and trains no more.

    Tied weights, and all where oneDNN is not faster, stay as they are.
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
    return weight.numel() >= _LARGE and weight.dtype == torch.float32 and weight.device.type == "cpu"
