"""Muon for matrices inside the network, AdamW for all else, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.training.sharing import shared_like, whole

_STEPS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at zero; singular values end between about 0.7 and 1.2


def orthogonal(matrices: Float[Tensor, "N I O"]) -> Float[Tensor, "N I O"]:
    """Each matrix with all its singular values near one, by Newton-Schulz steps (Muon, 2502.16982)."""
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
    for _ in range(_STEPS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Groups with `matrix` true take orthogonal momentum steps, scaled to the size of AdamW's, and others AdamW's own.

    One rate and one weight decay so serve both (2502.16982). A kernel is the matrix of its outputs by all its inputs.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0, "matrix": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            for parameter in learned:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._matrices if group["matrix"] else self._others)(group, learned)

    def _matrices(self, group: dict[str, Any], learned: list[Tensor]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for parameter in learned:
            shapes.setdefault(parameter.flatten(1).shape, []).append(parameter)
        for shape, parameters in shapes.items():
            updates = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"]
                average.lerp_(_gradient(parameter), 1 - group["momentum"])
                updates.append(whole(_gradient(parameter).lerp(average, group["momentum"])).flatten(1))
            size = 0.2 * max(shape) ** 0.5  # the root mean square of a step of AdamW
            for parameter, update in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                step = shared_like(update.view(parameter.shape), parameter)
                parameter.add_(step, alpha=-group["lr"] * size)

    def _others(self, group: dict[str, Any], learned: list[Tensor]) -> None:
        first, second = group["betas"]
        for parameter in learned:
            state = self.state[parameter]
            if not state:
                state |= {"average": torch.zeros_like(parameter), "square": torch.zeros_like(parameter), "count": 0}
            state["count"] = int(state["count"]) + 1
            state["average"].lerp_(_gradient(parameter), 1 - first)
            state["square"].lerp_(_gradient(parameter).square(), 1 - second)
            size = (state["square"] / (1 - second ** state["count"])).sqrt_().add_(1e-8)
            parameter.addcdiv_(state["average"], size, value=-group["lr"] / (1 - first ** state["count"]))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # `step` leaves the others out
    return parameter.grad
