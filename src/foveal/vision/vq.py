"""The VQ-GAN image tokenizer: pixels to codes of a learned codebook and back (2012.09841; Chameleon, 2405.09818)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Pixels, Reconstruction, VisualTokens
from foveal.layers.attention import attend
from foveal.layers.patching import grid_of
from foveal.layers.precision import own_dtype
from foveal.layers.straight import straight_through

_GROUPS = 32  # of channels that are normed together
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the tokenizer; the defaults are Chameleon's.

    The maps have `base` times each of `multiples` channels, and half the side from one to the next. `looks` are the
    sides of maps at which every place also attends to all others, for images of `resolution`; `middle` does so at
    the coarsest map. With `decoder`, codes can be made pixels again. The pixels of each square of the side `fold`
    stand as channels of one place before and after all maps, which saves the work at the finest ones.
    """

    codes: int = 8192
    width: int = 256
    latent: int = 256
    base: int = 128
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    resolution: int = 512
    looks: tuple[int, ...] = ()
    middle: bool = True
    channels: int = 3
    fold: int = 1
    decoder: bool = True


def nearest(states: Float[Tensor, "N E"], codebook: Float[Tensor, "K E"]) -> Int[Tensor, " N"]:
    """The code of the least distance to each state, the first of equals; in float32, for half precision ties many."""
    table = codebook.detach().float()
    with own_dtype(table):
        return torch.addmm(table.square().sum(1), states.detach().float(), table.T, alpha=-2).argmin(1)


def codebook_losses(
    states: Float[Tensor, "*s E"], chosen: Float[Tensor, "*s E"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Commitment (states to the entries chosen for them) and codebook loss (entries to their states)."""
    return F.mse_loss(states, chosen.detach()), F.mse_loss(chosen, states.detach())


class Residual(nn.Module):
    """Two convolutions, each after a norm and SiLU, beside a residual: `[I C h w]` to `[I D h w]`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first_norm, self.first = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.second_norm, self.second = _norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I D h w"]:
        """Both convolutions, and what came in."""
        inner = self.first(F.silu(self.first_norm(maps)))
        return self.shortcut(maps) + self.second(F.silu(self.second_norm(inner)))


class Look(nn.Module):
    """Every place of a map attends to all places, in one head, beside a residual: `[I C h w]` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.query, self.key, self.value, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C h w"]:
        """Attend over the places."""
        normed = self.norm(maps)
        query, key, value = (
            part(normed).flatten(2).transpose(1, 2)[:, None] for part in (self.query, self.key, self.value)
        )
        mixed = attend(query, key, value)[:, 0].transpose(1, 2).view_as(maps)
        return maps + self.out(mixed)


class Halve(nn.Module):
    """Half the side: `[I C h w]` to `[I C h/2 w/2]`; the one row and column of zeros stand below and right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C i j"]:
        """Convolve every other place."""
        return self.conv(F.pad(maps, (0, 1, 0, 1)))


class Double(nn.Module):
    """Twice the side: `[I C h w]` to `[I C 2h 2w]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C i j"]:
        """Repeat every place, then convolve."""
        return self.conv(F.interpolate(maps, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one side of the map, each with a look at all places where it has one; then the next side."""

    def __init__(self, width_in: int, width_out: int, *, blocks: int, look: bool, resize: nn.Module) -> None:
        super().__init__()
        widths = [width_in] + [width_out] * (blocks - 1)
        self.blocks = nn.ModuleList(Residual(width, width_out) for width in widths)
        self.looks = nn.ModuleList(Look(width_out) if look else nn.Identity() for _ in widths)
        self.resize = resize

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I D i j"]:
        """Block after block."""
        for block, look in zip(self.blocks, self.looks, strict=True):
            maps = look(block(maps))
        return self.resize(maps)


class Middle(nn.Module):
    """What both directions have at the coarsest map: block, look, block."""

    def __init__(self, width: int, *, look: bool) -> None:
        super().__init__()
        self.first, self.second = Residual(width, width), Residual(width, width)
        self.look = Look(width) if look else nn.Identity()

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C h w"]:
        """Block, look, block."""
        return self.second(self.look(self.first(maps)))


class Leave(nn.Module):
    """The last norm, SiLU and convolution of either direction."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm, self.conv = _norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, maps: Float[Tensor, "I C h w"]) -> Float[Tensor, "I D h w"]:
        """Norm, activate, convolve."""
        return self.conv(F.silu(self.norm(maps)))


class Encoder(nn.Sequential):
    """Pixels to a coarse map of `latent` channels, from `base` level after level of `widths` channels."""

    def __init__(self, *, base: int, channels: int, widths: Sequence[int], blocks: int, looks: Iterable[bool],
                 middle: bool, latent: int) -> None:  # fmt: skip
        super().__init__()
        last = len(widths) - 1
        self.enter = nn.Conv2d(channels, base, 3, padding=1)
        width = base
        self.levels = nn.Sequential()
        for i, (wider, look) in enumerate(zip(widths, looks, strict=True)):
            resize = Halve(wider) if i < last else nn.Identity()
            self.levels.append(Level(width, wider, blocks=blocks, look=look, resize=resize))
            width = wider
        self.middle, self.leave = Middle(width, look=middle), Leave(width, latent)


class Decoder(nn.Sequential):
    """A coarse map of `latent` channels to pixels: the encoder's levels backwards, each with one block more."""

    def __init__(self, *, channels: int, widths: Sequence[int], blocks: int, looks: Sequence[bool], middle: bool,
                 latent: int) -> None:  # fmt: skip
        super().__init__()
        width = widths[-1]
        self.enter = nn.Conv2d(latent, width, 3, padding=1)
        self.middle = Middle(width, look=middle)
        self.levels = nn.Sequential()
        for i in reversed(range(len(widths))):
            resize = Double(widths[i]) if i else nn.Identity()
            self.levels.append(Level(width, widths[i], blocks=blocks + 1, look=looks[i], resize=resize))
            width = widths[i]
        self.leave = Leave(width, channels)


class Vq(nn.Module):
    """Pixels to one token a cell of the coarsest map: its nearest entry of the codebook, or just that entry's code.

    A tile counts as an image of its own. Raises InputError for images that do not split into cells, for codes that
    are none, and for pixels wanted of a tokenizer without decoder.
    """

    def __init__(
        self,
        *,
        codes: int = 8192,
        width: int = 256,
        latent: int = 256,
        base: int = 128,
        multiples: tuple[int, ...] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        resolution: int = 512,
        looks: tuple[int, ...] = (),
        middle: bool = True,
        channels: int = 3,
        fold: int = 1,
        decoder: bool = True,
    ) -> None:
        super().__init__()
        _check(base, {"multiples": len(multiples), "blocks": blocks, "codes": codes, "fold": fold})
        self.codes, self.width, self.resolution, self.fold = codes, width, resolution, fold
        self.cell = fold * 2 ** (len(multiples) - 1)
        widths = [base * multiple for multiple in multiples]
        sides = [resolution // fold // 2**i in looks for i in range(len(multiples))]
        shape = {"channels": channels * fold**2, "widths": widths, "blocks": blocks, "latent": latent, "middle": middle}
        self.encoder = Encoder(base=base, looks=sides, **shape)
        self.into, self.out_of = nn.Conv2d(latent, width, 1), nn.Conv2d(width, latent, 1)
        self.codebook = nn.Embedding(codes, width)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)
        self.decoder = Decoder(looks=sides, **shape) if decoder else None
        self.out_of.requires_grad_(decoder)

    @property
    def levels(self) -> list[nn.Module]:
        """The levels of the encoder, then those of the decoder where there is one."""
        sides = [self.encoder] if self.decoder is None else [self.encoder, self.decoder]
        return [level for side in sides for level in side.levels]

    @property
    def grid(self) -> Grid:
        """The cells of an image of the resolution that the tokenizer is made for."""
        return self.resolution // self.cell, self.resolution // self.cell

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a cell."""
        return Layout.of_grids([self._grid(size) for size in sizes])

    def forward(self, pixels: Pixels) -> VisualTokens:
        """The codebook's entry for every cell; gradients reach it and the encoder."""
        tiles, _, height, width = pixels.values.shape
        layout = self.plan([(height, width)] * tiles)
        states = self.states(pixels.values).flatten(0, 2)
        codes = nearest(states, self.codebook.weight)
        seen = VisualTokens.on_layout(straight_through(states, self.codebook(codes)), layout)
        return replace(seen, codes=codes)

    def states(self, values: Float[Tensor, "I C H W"]) -> Float[Tensor, "I h w E"]:
        """What the encoder says of every cell, before a code is chosen."""
        self._grid((values.shape[-2], values.shape[-1]))
        folded = F.pixel_unshuffle(values.to(self.into.weight.dtype), self.fold)
        return self.into(self.encoder(folded)).permute(0, 2, 3, 1)

    def encode(self, values: Float[Tensor, "I C H W"]) -> Int[Tensor, "I h w"]:
        """The code of every cell."""
        states = self.states(values)
        return nearest(states.flatten(0, 2), self.codebook.weight).view(states.shape[:3])

    def recognise(self, features: Float[Tensor, "S E"]) -> Int[Tensor, " S"]:
        """The codes of tokens that this tokenizer made."""
        return nearest(features, self.codebook.weight)

    def decode(self, codes: Int[Tensor, "I h w"]) -> Float[Tensor, "I C H W"]:
        """The pixels of codes, on the scale of those that the tokenizer learned from."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            raise InputError(
                f"codes from {int(codes.min())} to {int(codes.max())} for a codebook of {self.codes}; "
                f"give 0 to {self.codes - 1}"
            )
        return self._draw(self.codebook(codes))

    def reconstruct(self, values: Float[Tensor, "I C H W"]) -> Reconstruction:
        """Pixels through codes and back: the pixels teach encoder and decoder, the two losses encoder and codebook."""
        states = self.states(values)
        codes = nearest(states.flatten(0, 2), self.codebook.weight).view(states.shape[:3])
        chosen = self.codebook(codes)
        commitment, codebook = codebook_losses(states, chosen)
        pixels = self._draw(straight_through(states, chosen.detach()))
        return Reconstruction(pixels=pixels, codes=codes, states=states, commitment=commitment, codebook=codebook)

    def _draw(self, entries: Float[Tensor, "I h w E"]) -> Float[Tensor, "I C H W"]:
        if self.decoder is None:
            raise InputError("this tokenizer has no decoder to make pixels of codes; load weights that hold one")
        return F.pixel_shuffle(self.decoder(self.out_of(entries.permute(0, 3, 1, 2))), self.fold)

    def _grid(self, size: Grid) -> Grid:
        return grid_of(size, self.cell, of="a vq with cells")


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, width, eps=_EPS)


def _check(base: int, counts: Mapping[str, int]) -> None:
    if base % _GROUPS:
        raise InputError(f"a vq of {base} base channels norms them in {_GROUPS} groups; give a multiple of {_GROUPS}")
    for name, given in counts.items():
        if given < 1:
            raise InputError(f"a vq with {name} of {given} makes no tokens; give at least 1")
