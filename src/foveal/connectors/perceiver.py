"""A fixed number of tokens out of any number, from one image or many frames (Flamingo, 2204.14198)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.types import Gaze, Layout, VisualTokens
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.gazing import led
from foveal.layers.images import by_image, lain, shares
from foveal.layers.linear import Linear
from foveal.layers.mlp import FeedForward, GatedFeedForward
from foveal.layers.norms import NormKind, norms
from foveal.layers.numbers import DEVIATION
from foveal.layers.perceiver import PerceiverLayer, Resampler
from foveal.layers.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Config:
    """`latents` tokens out of each image, in `depth` layers of `heads` heads of `head_width`.

    `kv_heads` key heads serve them (None: as many). The feed-forward is `factor` times as wide, gated where so asked.
    `qk_norm` norms each query and key head as `norm` says. A linear map comes first where widths differ, or a gated
    feed-forward of the inner width `entry` (IDEFICS-2, 2405.02246). Learned vectors tell tokens apart by their frame,
    `frames` of them, between which a longer video finds its own, and by the number of their image in its row, one of
    `images` (0: none do, as in OpenFlamingo). `places` octaves tell where a token's box lies (0: the encoder tells).
    With `norm_in` tokens are normed as they come. With `changes` each is also told how it differs from what stood at
    its place a frame before, by which what moves is found without a comparison of all tokens with all.
    """

    latents: int = 64
    depth: int = 6
    heads: int = 8
    head_width: int = 64
    kv_heads: int | None = None
    factor: int = 4
    activation: str = "gelu"
    gated: bool = False
    norm: NormKind = "layer"
    qk_norm: bool = False
    eps: float = 1e-5
    entry: int = 0
    frames: int = 0
    images: int = 0
    places: int = 0
    norm_in: bool = False
    changes: bool = later(False)


class Perceiver(nn.Module):
    """`features[S E]` to `latents` features an image, `[S D]`; they lie on no grid and stand for the whole image.

    Raises InputError for a row of more images than it tells apart.
    """

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_width: int = 64,
        kv_heads: int | None = None,
        factor: int = 4,
        activation: str = "gelu",
        gated: bool = False,
        norm: NormKind = "layer",
        qk_norm: bool = False,
        eps: float = 1e-5,
        entry: int = 0,
        frames: int = 0,
        images: int = 0,
        places: int = 0,
        norm_in: bool = False,
        changes: bool = False,
    ) -> None:
        super().__init__()
        self.changes = Linear(width_in, width_in, bias=False) if changes else None
        self.latents, self.counts_images, width = latents, images > 0, width_out
        self.shown = Shown(width=width_in, places=places, norm=norm_in)
        self.map = Linear(width_in, width) if width_in != width else None
        if entry:
            self.map = GatedFeedForward(width=width_in, inner=entry, activation=activation, out=width)
        make, feed = norms(norm, eps=eps), GatedFeedForward if gated else FeedForward
        heading = {"heads": heads, "inner": heads * head_width, "kv_heads": kv_heads}
        self.resampler = Resampler(
            width=width,
            latents=latents,
            layers=[
                PerceiverLayer(
                    width=width,
                    attention=CrossAttention(width=width, bias=False, qk_norm=make if qk_norm else None, **heading),
                    feed=feed(width=width, inner=factor * width, activation=activation, bias=False),
                    norm=make,
                )
                for _ in range(depth)
            ],
            norm=make(width),
        )
        self.frames, self.images = (
            nn.Parameter(nn.init.normal_(torch.empty(count, width_in), std=DEVIATION)) if count else None
            for count in (frames, images)
        )

    def plan(self, layout: Layout) -> Layout:
        """As many tokens of each image as there are latents."""
        return lain(layout, self.latents)

    def forward(self, visual: VisualTokens, gaze: Gaze | None = None) -> VisualTokens:
        """Tell frames, images and places, map, gather image by image; a `gaze` names fewer latents and leads them."""
        tokens, mask = by_image(self._tokens(visual), visual.layout)
        if visual.masked is not None:
            shown = by_image(visual.masked[:, None].float(), visual.layout)[0].mT[:, None] == 0
            mask = shown if mask is None else mask & shown
        count = self.latents if gaze is None else len(gaze.led)
        found = self.resampler(tokens, mask=led(gaze, visual.layout, mask), count=count).flatten(0, 1)
        made = VisualTokens.on_layout(found, lain(visual.layout, count))
        return replace(made, mass=shares(visual, count))

    def said(self, visual: VisualTokens) -> Float[Tensor, "S D"]:
        """What each token would tell a latent that looked at it alone, in language width."""
        return self.resampler.said(self._tokens(visual))

    def _tokens(self, visual: VisualTokens) -> Float[Tensor, "S D"]:
        features = visual.features
        if self.changes is not None:
            features = features + self.changes(features - features[_before(visual)])
        if self.frames is not None:
            features = features + of_frames(self.frames, visual)
        if self.images is not None:
            features = features + _of_images(self.images, visual)
        tokens = self.shown.tokens(visual.with_features(features))
        return tokens if self.map is None else self.map(tokens)


def _before(visual: VisualTokens) -> Int[Tensor, " S"]:
    """What stood at each token's place a frame before; in a first frame, and in pictures, the token itself."""
    here = torch.arange(len(visual.features), device=visual.features.device)
    if visual.frame is None or visual.layout.frames is None:
        return here
    sizes = [count // frames for count, frames in zip(visual.layout.counts, visual.layout.frames, strict=True)]
    return torch.where(visual.frame > 0, here - torch.tensor(sizes, device=here.device)[visual.image], here)


def of_frames(table: Float[Tensor, "F E"], visual: VisualTokens) -> Float[Tensor, "#S E"]:
    """The vector of each token's frame; videos of more than F frames stretch the table over theirs, linearly."""
    if visual.frame is None or visual.layout.frames is None:
        return table[:1]
    last = len(table) - 1
    steps = [last / (count - 1) if count > last + 1 else 1.0 for count in visual.layout.frames]
    place = visual.frame * torch.tensor(steps, device=table.device)[visual.image]
    low = place.long().clamp(max=last)
    share = (place - low)[:, None].to(table.dtype)
    return torch.lerp(table[low], table[(low + 1).clamp(max=last)], share)


def _of_images(table: Float[Tensor, "N E"], visual: VisualTokens) -> Float[Tensor, "#S E"]:
    if visual.number is None:
        return table[:1]
    if not torch.compiler.is_compiling() and len(visual.number) and (most := int(visual.number.max()) + 1) > len(table):
        raise InputError(
            f"a row of {most} images for a connector that tells {len(table)} apart; raise connector.images"
        )
    return table[visual.number]
