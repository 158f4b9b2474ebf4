"""Ours (ARR-COC): three ways of knowing score every patch, tensions balance them, a tree of splits is paid for."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.types import Gaze, Grid, Layout, Query, Relevance, VisualTokens
from foveal.relevance.allocation import Partition, partition
from foveal.relevance.balancing import WAYS, Balancer, Tensions, balanced
from foveal.relevance.hearing import Hearing
from foveal.relevance.knowing import aloof, coupling, entropy, information, received, surprise
from foveal.relevance.painting import painted
from foveal.relevance.pooling import medoids
from foveal.relevance.pricing import Terms, gained
from foveal.relevance.spending import Shares, alike, checked, covering, each, of_images, planned, spend
from foveal.relevance.tokens import attention_of, chosen

Realizer = Literal["pool", "medoid"]
Salience = Literal["contrast", "attention"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """At most `budget` tokens an image, one in each of `floor` x `floor` cells at least (0: one root for all), or in
    fewer of an image or tile whose share of the budget, or whose grid, has no room for as many.

    `explore` goes from 0 (the question alone) to 1 (none; null: by how little it says), and `temperature` flattens.
    Of an image in tiles only those are encoded that hold `cover` of what the view of the whole is worth (1: all).
    Where a connector's queries look at an image, relevance leads a share `lead` of them, and the others explore. A
    token is the `pool` of its patches by what they are worth, or their `medoid`, one of them as it is: then nothing of
    where to look is learned from what is said. Where `hears` is how wide the words are, it is learned which of them
    tell, how what they name looks and where they say it is (0: they couple to what is like them). What stands out does
    so by its `contrast` with what is around it, or by the `attention` that the encoder pays to it.
    """

    budget: int = 64
    floor: int = 0
    explore: float | None = None
    temperature: float = 1.0
    cover: float = 0.75
    lead: float = 0.75
    realize: Realizer = later("pool")
    hears: int = later(0)
    salience: Salience = later("contrast")


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
        lead: float = 0.75,
        realize: Realizer = "pool",
        hears: int = 0,
        salience: Salience = "contrast",
    ) -> None:
        super().__init__()
        if not 0 <= lead <= 1:
            raise InputError(f"a lead of {lead}; give the share of queries that relevance leads, 0 to 1")
        if hears < 0:
            raise InputError(f"hears {hears}; give the width of the words, or 0 for what needs no learning")
        most = math.isqrt(checked(budget))
        if not 0 <= floor <= most:
            raise InputError(
                f"a floor of {floor} x {floor} cells under a budget of {budget} visual tokens; give 0 (one root) "
                f"to {most}"
            )
        self.budget, self.floor, self.cover, self.lead = budget, floor, covering(cover), lead
        self.realize, self.salience = realize, salience
        self.tensions = Tensions(explore=explore, temperature=temperature)
        self.balancer = Balancer()
        self.hears, self.hearing = hears, Hearing(width=hears) if hears else None

    @property
    def needs(self) -> tuple[str, ...]:
        """What it asks of the encoder."""
        return ("attention",) if self.salience == "attention" else ()

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name="foveal", loose=True)

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """Know, balance, split, pool."""
        return self.apart(visual, query, each(visual.layout, self.budget))

    def priced(self, visual: VisualTokens, query: Query, terms: Terms) -> VisualTokens:
        """The same with as many tokens of each image as it is worth by the terms; takes their errors."""
        layout = visual.layout
        planned(layout, terms.fewest, name="foveal")
        keys = {image: visual.mass.new_zeros(count - 1) for image, count in enumerate(layout.counts)}
        for some in alike(layout):
            grid = layout.grids[some[0]]
            if grid is None:  # within the least
                continue
            features = of_images(visual.features, layout, some)
            made, weight, _ = self._split(visual, features, grid, some, query, terms.fewest)
            keys |= dict(zip(some, gained(made.keys, features, weight), strict=True))
        return self.apart(visual, query, terms.counts([keys[image] for image in range(len(layout.counts))]))

    def apart(self, visual: VisualTokens, query: Query, budgets: Sequence[int]) -> VisualTokens:
        """The same with a budget for each image."""
        known: dict[int, Relevance] = {}

        def choose(features: Tensor, grid: Grid | None, images: Sequence[int]) -> Shares:
            if grid is None:  # regions of any size: what is most worth stays as it is
                maps = self.knowing(features, None, query, query.owner[images], **self.beside(visual, images))
                worth = self.shares(maps, None, query, query.owner[images])
                made = chosen(worth, budgets[images[0]])
                boxes = of_images(visual.boxes[:, :4], visual.layout, images)
                if not torch.compiler.is_compiling():
                    over = painted(maps.detach(), worth.detach(), boxes, made[0] >= 0, names=WAYS)
                    known.update(zip(images, over, strict=True))
                return made
            made, weight, maps = self._split(visual, features, grid, images, query, budgets[images[0]])
            for i, image in enumerate([] if torch.compiler.is_compiling() else images):
                shown = {"maps": maps[i].detach().unflatten(-1, grid), "shares": weight[i].detach().unflatten(-1, grid)}
                known[image] = Relevance(names=WAYS, boxes=made.boxes[i].float(), **shown)
            if self.realize == "medoid":
                weight = medoids(features.detach(), made.assignment, weight.detach(), made.boxes.shape[1])
            return made.assignment, weight

        made = spend(visual, budgets, choose, name="foveal", loose=True)
        return replace(made, looked=tuple(known.get(i) for i in range(len(made.layout.counts)))) if known else made

    def _split(
        self, visual: VisualTokens, features: Tensor, grid: Grid, images: Sequence[int], query: Query, budget: int
    ) -> tuple[Partition, Float[Tensor, "I N"], Float[Tensor, "I 3 N"]]:
        """How some images on a grid are parted, what their patches are worth, and the maps by which they are."""
        maps = self.knowing(features, grid, query, query.owner[images], **self.beside(visual, images))
        weight = self.shares(maps, grid, query, query.owner[images])
        cells = _cells(self.floor, grid, budget) if self.floor else None
        return partition(features, grid=grid, budget=budget, relevance=weight, floor=cells), weight, maps

    def glance(self, features: Float[Tensor, "N D"], grid: Grid, query: Query, row: int) -> Float[Tensor, " N"]:
        """What each cell of one image's view is worth to the question of a row, before anything finer is encoded.

        The ways of knowing count alike: what the balancer has learned, it has learned of finer maps.
        """
        rows = torch.tensor([row], device=features.device)
        maps = self.knowing(features[None], grid, query, rows)
        alike, place = maps.new_ones(1, len(WAYS)), self._place(grid, query, rows)
        return balanced(maps, alike, self.tensions, place=place)[0]

    def gaze(self, visual: VisualTokens, said: Float[Tensor, "S D"], query: Query, count: int) -> Gaze:
        """How so many queries look: those that relevance leads have its log, less that of even shares, in their scores.

        Every frame of a video is worth as much as another. `said` is what each token says in the words' width.
        """
        layout, frames = visual.layout.by_frame(), visual.layout.frames
        bias, known = said.new_zeros(layout.total, dtype=torch.float32), dict[int, Relevance]()
        for some, grid, at, maps, shares in self._valued(visual, said, query):
            bias = bias.index_put((at,), (shares * shares.shape[1]).clamp(min=1e-6).log().to(bias.dtype))
            if grid is not None and frames is None and not torch.compiler.is_compiling():
                known |= {image: _shown(maps[i], shares[i], grid) for i, image in enumerate(some)}
        led = tuple(_led(j + 1, self.lead) > _led(j, self.lead) for j in range(count))
        looked = tuple(known.get(i) for i in range(len(layout.counts))) if known else ()
        return Gaze(led=led, bias=bias, looked=looked)

    def worth(self, visual: VisualTokens, query: Query) -> Float[Tensor, " S"]:
        """What each token is worth to the question of its row: shares of its image, or of its frame of a video."""
        worth = visual.mass.new_zeros(visual.layout.total, dtype=torch.float32)
        for _, _, at, _, shares in self._valued(visual, None, query):
            worth = worth.index_put((at,), shares.to(worth.dtype))
        return worth

    def _valued(
        self, visual: VisualTokens, said: Float[Tensor, "S D"] | None, query: Query
    ) -> Iterator[tuple[list[int], Grid | None, Int[Tensor, "I N"], Float[Tensor, "I 3 N"], Float[Tensor, "I N"]]]:
        """Of images that are alike: which, on what grid, where their tokens are, the maps, and what these are worth."""
        layout, frames = visual.layout.by_frame(), visual.layout.frames
        visual = replace(visual, layout=layout)
        owner = query.owner if frames is None else query.owner.repeat_interleave(torch.tensor(frames).to(query.owner))
        begins = torch.tensor(layout.offsets[:-1], device=visual.features.device)
        for some in alike(layout):
            grid = layout.grids[some[0]]
            features = of_images(visual.features, layout, some)
            spoken = None if said is None else of_images(said, layout, some)
            maps = self.knowing(features, grid, query, owner[some], said=spoken, **self.beside(visual, some))
            at = begins[some][:, None] + torch.arange(layout.counts[some[0]], device=begins.device)
            yield some, grid, at, maps, self.shares(maps, grid, query, owner[some])

    def shares(
        self, maps: Float[Tensor, "I 3 N"], grid: Grid | None, query: Query, row: Int[Tensor, " I"]
    ) -> Float[Tensor, "I N"]:
        """What the maps of images, whose questions stand in these rows, come to: shares of each image."""
        return self.balancer(maps, self.tensions, place=self._place(grid, query, row))

    def _place(self, grid: Grid | None, query: Query, row: Int[Tensor, " I"]) -> Float[Tensor, "I N"] | None:
        """Where on the grid the questions of these rows say to look; None: nowhere that is known."""
        if self.hearing is None or grid is None:
            return None
        return self.hearing.place(query.features[row], query.valid[row], grid)

    def beside(self, visual: VisualTokens, images: Sequence[int]) -> dict[str, Tensor]:
        """What more is known of the tokens of some images than their features.

        Raises InputError where salience is the encoder's attention and nobody brought it.
        """
        told = {} if visual.classes is None else {"classes": of_images(visual.classes, visual.layout, images)}
        return {**told, "taken": attention_of(visual, images, name="foveal")} if self.needs else told

    def knowing(
        self,
        features: Float[Tensor, "I N D"],
        grid: Grid | None,
        query: Query,
        row: Int[Tensor, " I"],
        *,
        said: Float[Tensor, "I N Q"] | None = None,
        classes: Float[Tensor, "I N K"] | None = None,
        taken: Float[Tensor, "I N"] | None = None,
    ) -> Float[Tensor, "I 3 N"]:
        """The three maps of each image, whose question stands in a row.

        What tokens have `said` in the words' width couples to these (None: the features do). Their `classes`, where
        they are distributions, tell by their entropy. Without these, or where an image's are zeros, the neighbourhood
        tells, which tokens on no grid do not have. Where it is known what the encoder has `taken` of each, that stands
        out, and else what is unlike the others.
        """
        still = features.detach()  # what is there is read off; what is asked for learns
        heard = self.coupled(features if said is None else said, query, row)
        out = received(taken) if taken is not None else aloof(still) if grid is None else surprise(still, grid)
        there = torch.zeros_like(heard) if grid is None else information(still, grid)
        if classes is not None:
            told = (classes.sum(-1, keepdim=True) > 0).all(1)
            there = torch.where(told, entropy(classes.detach()), there)
        return torch.stack([there, out, heard], dim=1).float()

    def coupled(self, spoken: Float[Tensor, "I N Q"], query: Query, row: Int[Tensor, " I"]) -> Float[Tensor, "I N"]:
        """How tokens that have spoken so couple to the questions of these rows; alike where widths differ."""
        words, valid = query.features[row], query.valid[row]
        if spoken.shape[-1] != words.shape[-1]:  # what looks at images maps them to its own width by itself
            return spoken.new_zeros(spoken.shape[:2])
        if self.hearing is None:
            return coupling(spoken, words, valid)
        return coupling(self.hearing.shown(spoken), words, valid, gain=self.hearing.gain(words))


def _cells(floor: int, grid: Grid, budget: int) -> Grid:
    """As many cells a side as the grid and so many tokens have room for."""
    sides = ((min(side, grid[0]), min(side, grid[1])) for side in range(floor, 0, -1))
    return next(cells for cells in sides if cells[0] * cells[1] <= budget)


def _led(count: int, lead: float) -> int:
    """How many of the first queries are led: more queries lead the same ones."""
    return math.ceil(count * lead - 1e-9)


def _shown(maps: Float[Tensor, "3 N"], shares: Float[Tensor, " N"], grid: Grid) -> Relevance:
    """What queries were led by, with no token that lies anywhere."""
    told = {"maps": maps.detach().unflatten(-1, grid), "shares": shares.detach().unflatten(-1, grid)}
    return Relevance(names=WAYS, boxes=shares.new_zeros(0, 4), **told)
