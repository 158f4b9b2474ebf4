"""Ours (ARR-COC): three ways of knowing score every patch, tensions balance them, a tree of splits is paid for."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.types import Grid, Layout, Query, Relevance, VisualTokens
from foveal.relevance.allocation import allocate
from foveal.relevance.balancing import WAYS, Balancer, Tensions
from foveal.relevance.knowing import coupling, information, surprise
from foveal.relevance.spending import Shares, checked, planned, spend


@dataclass(frozen=True, kw_only=True)
class Config:
    """At most `budget` tokens an image, one in each of `floor` x `floor` cells at least (0: one root for all).

    `explore` goes from 0 (the question alone) to 1 (none; null: by how little it says), and `temperature` flattens.
    """

    budget: int = 64
    floor: int = 0
    explore: float | None = None
    temperature: float = 1.0


class Foveal(nn.Module):
    """Coarse everywhere and fine where image and question need it together, exactly within the budget."""

    steered = True

    def __init__(
        self, *, budget: int = 64, floor: int = 0, explore: float | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.budget, self.floor = checked(budget), floor
        self.tensions = Tensions(explore=explore, temperature=temperature)
        self.balancer = Balancer()

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="foveal")

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Know, balance, split, pool."""

        known: dict[int, Relevance] = {}

        def choose(features: Tensor, grid: Grid, images: Tensor) -> Shares:
            maps = self.knowing(features, grid, query, query.owner[images])
            weight = self.balancer(maps, self.tensions)
            cells = (min(self.floor, grid[0]), min(self.floor, grid[1])) if self.floor else None
            made = allocate(features, grid=grid, budget=self.budget, relevance=weight, floor=cells)
            for i, image in enumerate([] if torch.compiler.is_compiling() else images.tolist()):
                shown = {"maps": maps[i].detach().unflatten(-1, grid), "shares": weight[i].detach().unflatten(-1, grid)}
                known[image] = Relevance(names=WAYS, boxes=made.boxes[i].float(), **shown)
            return made.assignment, weight

        made = spend(visual, self.budget, choose, name="foveal")
        return replace(made, looked=tuple(known.get(i) for i in range(len(made.layout.counts)))) if known else made

    def knowing(
        self, features: Float[Tensor, "I N D"], grid: Grid, query: Query, row: Int[Tensor, " I"]
    ) -> Float[Tensor, "I 3 N"]:
        """The three maps of each image, whose question stands in a row."""
        heard = coupling(features, query.features[row], query.valid[row])
        return torch.stack([information(features, grid), surprise(features, grid), heard], dim=1).float()
