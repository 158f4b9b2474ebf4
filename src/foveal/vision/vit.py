"""Vision transformers with taps at any depth: CLIP (2103.00020), SigLIP (2303.15343) and DINOv2 (2304.07193)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, VisualTokens
from foveal.layers.attention import attend
from foveal.layers.blocks import Block, attended
from foveal.layers.gates import Scale
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.mlp import FeedForward
from foveal.layers.patching import grid_of

Select = Literal["default", "full", "patches"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a tower; the defaults are CLIP-B/16 as LLaVA taps it.

    `layers` are the depths whose states are concatenated along features in this order: 0 is the input of the first
    block, -1 the output of the last, with the norm that follows it (of `last_eps`; None: `eps`) only where `last_norm`
    says so. `levels` are further depths, kept beside the features. `select` drops the first token by `default`, whether
    it is a class token or, in a tower without one, the first patch (as LLaVA of transformers does); `patches` are what
    is no class token and no register (2309.16588), of which there are `registers`. With a `scale`, what a block adds is
    scaled channel by channel, from that number on; `gated` feed-forwards are SwiGLU's where `activation` is silu.
    `smooth` positions are resized with antialiasing.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    inner: int = 3072
    patch: int = 16
    image_size: int = 224
    channels: int = 3
    class_token: bool = True
    pre_norm: bool = True
    patch_bias: bool = False
    activation: str = "quick_gelu"
    eps: float = 1e-5
    pool: bool = False
    layers: tuple[int, ...] = (-2,)
    select: Select = "default"
    levels: tuple[int, ...] = ()
    last_norm: bool = False
    last_eps: float | None = None
    registers: int = later(0)
    scale: float | None = later(None)
    gated: bool = later(False)
    smooth: bool = later(False)


class AttentionPool(nn.Module):
    """One learned probe looks at all tokens (SigLIP's head): `[T S E]` to `[T E]`."""

    def __init__(self, *, width: int, heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(_small(1, 1, width))
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.feed = FeedForward(width=width, inner=inner, activation=activation)

    def forward(
        self, hidden: Float[Tensor, "T S E"], *, mask: Bool[Tensor, "T 1 1 S"] | None = None
    ) -> Float[Tensor, "T E"]:
        """Pool what the mask shows (None: all) by attention, then feed beside a residual."""
        probe = self.probe.expand(hidden.shape[0], -1, -1)
        heads = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(probe), self.key(hidden), self.value(hidden))
        )
        pooled = self.out(attend(*heads, mask=mask).transpose(1, 2).flatten(1))
        return pooled + self.feed(self.norm(pooled))


def resized_positions(
    positions: Float[Tensor, "N E"], *, old: Grid, new: Grid, extra: int, smooth: bool = False
) -> Float[Tensor, "M E"]:
    """Positions of an `old` grid for a `new` one, bicubic (`smooth`: with antialiasing); the first `extra` belong to no
    place and stay."""
    if old == new:
        return positions
    table = positions[extra:].view(1, *old, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=new, mode="bicubic", align_corners=False, antialias=smooth)
    return torch.cat([positions[:extra], table.flatten(2)[0].T])


class Vit(nn.Module):
    """Pixels to the states of chosen depths: one token a patch, and what stands before them as `select` says.

    A tile counts as an image of its own. Raises InputError for depths that the tower lacks, and for pixels whose
    sides are neither multiples of `patch` nor `image_size`.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        inner: int = 3072,
        patch: int = 16,
        image_size: int = 224,
        channels: int = 3,
        class_token: bool = True,
        pre_norm: bool = True,
        patch_bias: bool = False,
        activation: str = "quick_gelu",
        eps: float = 1e-5,
        pool: bool = False,
        layers: tuple[int, ...] = (-2,),
        select: Select = "default",
        levels: tuple[int, ...] = (),
        last_norm: bool = False,
        last_eps: float | None = None,
        registers: int = 0,
        scale: float | None = None,
        gated: bool = False,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.patch, self.image_size, self.select = depth, patch, image_size, select
        self.last_norm, self.smooth = last_norm, smooth
        self.taps, self.levels = _depths("layers", layers, depth), _depths("levels", levels, depth)
        self.width, self.level_widths = width * len(self.taps), (width,) * len(levels)
        self.grid = (image_size // patch, image_size // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=patch_bias)
        self.class_token = nn.Parameter(_small(width)) if class_token else None
        self.registers = nn.Parameter(_small(registers, width)) if registers else None
        self.before = class_token + registers
        self.dropped = {"default": 1, "full": 0, "patches": self.before}[select]
        self.positions = nn.Parameter(_small(self.grid[0] * self.grid[1] + class_token, width))
        self.pre_norm = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        parts = {"width": width, "heads": heads, "inner": inner, "activation": activation, "eps": eps}
        self.blocks = nn.ModuleList(_scaled(Block(**parts, gated=gated), width, scale) for _ in range(depth))
        self.post_norm = nn.LayerNorm(width, eps=eps if last_eps is None else last_eps)
        self.pool = AttentionPool(**parts) if pool else None
        self.apply(small_normal)
        self._freeze_unreached()

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a patch; with others before them, or less the first, the tokens lie on no grid."""
        grids = [self._grid(size) for size in sizes]
        more = self.before - self.dropped
        if more == 0:
            return Layout.of_grids(grids)
        return Layout(counts=tuple(rows * columns + more for rows, columns in grids), grids=(None,) * len(grids))

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Embed the patches, run to the deepest tap, gather what is tapped."""
        return self._tapped(pixels, self.states(pixels.values, {*self.taps, *self.levels}))

    def attended(self, pixels: Pixels) -> VisualTokens:
        """The same with `attention` and `keys` of the last block before the deepest of its `layers`.

        Raises InputError where there is none.
        """
        deepest = max(self.taps)
        if deepest == 0:
            raise InputError("vit taps what enters its first block, so that nothing attends; tap a later one in layers")
        states = self.states(pixels.values, {*self.taps, *self.levels, deepest - 1})
        seen = self.class_token is not None
        told = attended(self.blocks[deepest - 1], states[deepest - 1], first=seen)  # type: ignore[arg-type]
        attention, keys = (part[:, self.dropped :].flatten(0, 1) for part in told)
        return replace(self._tapped(pixels, states), attention=attention, keys=keys)

    def _tapped(self, pixels: Pixels, states: dict[int, Tensor]) -> VisualTokens:
        tiles, _, *size = pixels.values.shape
        layout = self.plan([(size[0], size[1])] * tiles)
        if self.last_norm and self.depth in states:
            states[self.depth] = self.post_norm(states[self.depth])
        tapped = {depth: state[:, self.dropped :].flatten(0, 1) for depth, state in states.items()}
        features = torch.cat([tapped[depth] for depth in self.taps], dim=-1)
        return VisualTokens.on_layout(features, layout, tuple(tapped[depth] for depth in self.levels))

    def states(self, values: Float[Tensor, "T C H W"], depths: Collection[int]) -> dict[int, Tensor]:
        """The states `[T S E]` at these depths (0 to the tower's), with the class token and without the last norm."""
        hidden = self.embed(values)
        kept = {0: hidden} if 0 in depths else {}
        for depth, block in enumerate(self.blocks[: max(depths, default=0)], start=1):
            hidden = block(hidden)
            if depth in depths:
                kept[depth] = hidden
        return kept

    def embed(self, values: Float[Tensor, "T C H W"]) -> Float[Tensor, "T S E"]:
        """Patches with their positions, resized to the pixels' grid, after what stands before them."""
        new = self._grid((values.shape[-2], values.shape[-1]))
        hidden = self.patches(values.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            hidden = torch.cat([self.class_token.expand(hidden.shape[0], 1, -1), hidden], dim=1)
        extra = int(self.class_token is not None)
        way = {"old": self.grid, "new": new, "extra": extra, "smooth": self.smooth}
        hidden = self.pre_norm(hidden + resized_positions(self.positions, **way))
        if self.registers is None:
            return hidden
        registers = self.registers.expand(len(hidden), -1, -1)
        return torch.cat([hidden[:, :extra], registers, hidden[:, extra:]], dim=1)

    def _grid(self, size: Grid) -> Grid:
        return grid_of(size, self.patch, of="a vit with patches", also=self.image_size)

    def _freeze_unreached(self) -> None:
        """What no tap reaches gets no gradient, so it must not count as trainable."""
        deepest = max((*self.taps, *self.levels))
        last = () if self.last_norm and deepest == self.depth else (self.post_norm,)
        for part in (*self.blocks[deepest:], *last, self.pool):
            if part is not None:
                part.requires_grad_(False)


def _scaled(block: Block, width: int, start: float | None) -> Block:
    """The block, what it adds scaled by channels where a `start` is given."""
    if start is not None:
        for name in ("attention_gate", "feed_gate"):
            setattr(block, name, Scale(width=width, start=start))
    return block


def _depths(setting: str, given: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Depths counted from the embeddings, 0 to `depth`."""
    if setting == "layers" and not given:
        raise InputError("a vit taps no layers; give at least one, for example layers: [-2]")
    for layer in given:
        if not -depth - 1 <= layer <= depth:
            raise InputError(
                f"vit {setting} has {layer}, but the tower has {depth} blocks; give -{depth + 1} to {depth}"
            )
    return tuple(layer % (depth + 1) for layer in given)


def _small(*shape: int) -> Tensor:
    return nn.init.normal_(torch.empty(shape), std=0.02)
