"""Ours (ARR-COC): three ways of knowing score every patch, tensions balance them, a tree of splits is paid for."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Query, Relevance, VisualTokens
from foveal.relevance.allocation import allocate
from foveal.relevance.balancing import WAYS, Balancer, Tensions
from foveal.relevance.knowing import coupling, information, surprise
from foveal.relevance.spending import Shares, checked, planned, spend


@dataclass(frozen=True, kw_only=True)
class Config:
    """At most `budget` tokens an image, one in each of `floor` x `floor` cells at least (0: one root for all).

    `explore` goes from 0 (the question alone) to 1 (none; null: by how little it says), and `temperature` flattens.
    Of an image in tiles only those are encoded that hold `cover` of what the view of the whole is worth (1: all).
    """

    budget: int = 64
    floor: int = 0
    explore: float | None = None
    temperature: float = 1.0
    cover: float = 0.75


class Foveal(nn.Module):
    """Coarse everywhere and fine where image and question need it together, exactly within the budget."""

    steered = True

    def __init__(
        self,
        *,
        budget: int = 64,
        floor: int = 0,
        explore: float | None = None,
        temperature: float = 1.0,
        cover: float = 0.75,
    ) -> None:
        super().__init__()
        if not 0 < cover <= 1:
            raise InputError(f"a cover of {cover}; give a share above 0, or 1 for all tiles")
        self.budget, self.floor, self.cover = checked(budget), floor, cover
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

    def glance(self, features: Float[Tensor, "N D"], grid: Grid, query: Query, row: int) -> Float[Tensor, " N"]:
        """What each cell of one image's view is worth to the question of a row, before anything finer is encoded."""
        maps = self.knowing(features[None], grid, query, torch.tensor([row], device=features.device))
        return self.balancer(maps, self.tensions)[0].detach()

    def knowing(
        self, features: Float[Tensor, "I N D"], grid: Grid, query: Query, row: Int[Tensor, " I"]
    ) -> Float[Tensor, "I 3 N"]:
        """The three maps of each image, whose question stands in a row."""
        still = features.detach()  # what is there is read off; what is asked for learns
        heard = coupling(features, query.features[row], query.valid[row])
        return torch.stack([information(still, grid), surprise(still, grid), heard], dim=1).float()
