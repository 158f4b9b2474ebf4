"""Layers of which only what some tokens say may be wanted."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from foveal.core.types import Stream


class Speaking(nn.Module):
    """A layer that is called for what it says everywhere and for what it says at some places alone.

    Both come of a call, so that hooks see them, and what gathers sharded weights before one.
    """

    def forward(self, stream: Stream, at: Int[Tensor, "B Q"] | None = None) -> Stream:
        """One layer, `[B L D]`, or what it says at these places of each row, `[B Q D]`."""
        return self.everywhere(stream) if at is None else self.only(stream, at)

    @abstractmethod
    def everywhere(self, stream: Stream) -> Stream:
        """One layer."""

    @abstractmethod
    def only(self, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
        """What the layer says at these places of each row alone."""


def alone(layer: Any, stream: Stream, at: Int[Tensor, "B Q"]) -> Stream:
    """What a layer says at these places of each row, by a call where it is one for that."""
    says: Stream = layer(stream, at) if isinstance(layer, Speaking) else layer.only(stream, at)
    return says
