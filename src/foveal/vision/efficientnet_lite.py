"""EfficientNet-Lite (the ReLU6 form of 1905.11946 without squeeze-and-excitation): features of any input on one grid.

The ImageNet weights were trained on RGB pixels from 0 to 1, less `MEAN`, over `STD`; images came as a central crop
of side / (side + 32) of the shorter edge, resized bicubically to `SIDE`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError, unknown
from foveal.core.types import Grid, Layout, Pixels, VisualTokens

MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
SIDE = {0: 224, 1: 240, 2: 260}  # pixels, by variant

Variant = Literal[0, 1, 2]
Resample = Literal["bilinear", "nearest"]
Finer = Literal["average", "join"]

_SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # of width, of depth
_STAGES = (  # blocks, kernel, stride, expansion, channels, all before scaling
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000  # not scaled
_STRIDES = (4, 8, 16, 32)
_NEAR = 1 << 19  # bytes of a channel of images that pass side by side on a CPU: more leave its caches between layers


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings: lite 0, 1 or 2, and which maps are tapped.

    The last map of each stride in `taps` comes onto the grid with cells of `stride` pixels: finer ones by averaging or
    by a `join` of all their places, row by row, coarser ones by `resample`; all are concatenated along features in this
    order. An average of many places no longer tells their order: letters of small words are lost in it. `levels` are
    strides whose maps are kept beside the features, each by itself. `classify` keeps the ImageNet head.
    """

    variant: Variant = 0
    taps: tuple[int, ...] = (8, 16, 32)
    stride: int = 16
    resample: Resample = "bilinear"
    classify: bool = False
    levels: tuple[int, ...] = ()
    finer: Finer = "average"


Folded = tuple[Tensor, Tensor]


class ConvNorm(nn.Module):
    """A convolution and its batch norm in one, `[T C H W]` to `[T D h w]`: h and w are H and W over stride, rounded up.

    The norm uses its stored statistics, so that all it does is to scale the convolution's weights and to add a bias.
    The zeros around a map are TensorFlow's: where their number is odd, one more stands below and right.
    """

    def __init__(
        self, width_in: int, width_out: int, *, kernel: int = 1, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.alone = kernel == stride == 1 and not depthwise  # each place sees itself
        self.padded = stride > 1  # an odd kernel at stride 1 has equal zeros on both sides
        groups = width_in if depthwise else 1
        padding = 0 if self.padded else kernel // 2
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width_out, eps=1e-3, momentum=0.01)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, maps: Float[Tensor, "T C H W"], folded: Folded | None = None) -> Float[Tensor, "T D h w"]:
        """Pad, convolve; where a place sees itself alone, that is a matrix product over channels."""
        weight, bias = folded or self.folded()
        if self.alone:
            return F.linear(maps.permute(0, 2, 3, 1), weight[..., 0, 0], bias).permute(0, 3, 1, 2)
        maps, conv = self._pad(maps) if self.padded else maps, self.conv
        return F.conv2d(maps, weight, bias, stride=conv.stride, padding=conv.padding, groups=conv.groups)

    def folded(self) -> Folded:
        """Weight and bias of both in one."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self.conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale

    def _pad(self, maps: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        zeros = []
        for size in (maps.shape[-1], maps.shape[-2]):
            total = max((_cells(size, stride) - 1) * stride + kernel - size, 0)
            zeros += [total // 2, total - total // 2]
        return F.pad(maps, zeros)


class Block(nn.Module):
    """An inverted bottleneck (MBConv): expand, convolve each channel, project."""

    def __init__(self, width_in: int, width_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.residual = stride == 1 and width_in == width_out
        self.expand = ConvNorm(width_in, inner) if expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel=kernel, stride=stride, depthwise=True)
        self.project = ConvNorm(inner, width_out)

    def forward(
        self, maps: Float[Tensor, "T C H W"], folded: Sequence[Folded | None] = (None, None, None)
    ) -> Float[Tensor, "T D h w"]:
        """Expand, convolve, project; beside a residual where the shape stays."""
        expand, depthwise, project = folded
        inner = maps if self.expand is None else _relu6(self.expand(maps, expand))
        new = self.project(_relu6(self.depthwise(inner, depthwise)), project)
        return new + maps if self.residual else new

    def folded(self) -> tuple[Folded | None, Folded, Folded]:
        """Weights and biases of its convolutions, for images that pass one after another."""
        expand = None if self.expand is None else self.expand.folded()
        return expand, self.depthwise.folded(), self.project.folded()


class EfficientnetLite(nn.Module):
    """Pixels of any size to one token a cell of `stride` pixels, in raster order.

    Batch norm always uses its stored statistics, in training too, so that a token depends on its own image alone. A
    tile counts as an image of its own. Raises InputError for a variant, tap or stride that is not there.
    """

    def __init__(
        self,
        *,
        variant: Variant = 0,
        taps: tuple[int, ...] = (8, 16, 32),
        stride: int = 16,
        resample: Resample = "bilinear",
        classify: bool = False,
        levels: tuple[int, ...] = (),
        finer: Finer = "average",
    ) -> None:
        super().__init__()
        self._held: tuple[list[Any], Tensor, list[Any]] | None = None
        _check(variant, taps, levels, stride)
        self.taps, self.levels, self.stride, self.resample, self.finer = taps, levels, stride, resample, finer
        self.classes = _CLASSES if classify else 0
        self.stem = ConvNorm(3, _STEM, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        width, place = _STEM, 2
        self.ends: dict[int, tuple[int, int]] = {}  # of each stride: blocks up to its last map, and that map's channels
        for blocks, kernel, step, expansion, channels in _scaled(variant):
            place *= step
            for i in range(blocks):
                first = step if i == 0 else 1
                self.blocks.append(Block(width, channels, kernel=kernel, stride=first, expansion=expansion))
                width = channels
            self.ends[place] = (len(self.blocks), width)
        self.width = sum(map(self._width, taps))
        self.level_widths = tuple(map(self._width, levels))
        self.head = ConvNorm(width, _HEAD) if classify else None
        self.classifier = nn.Linear(_HEAD, _CLASSES) if classify else None
        self._freeze_unreached()

    def plan(self, sizes: Sequence[Grid]) -> Layout:
        """One token a cell of the grid, the last row and column also where the image does not fill them."""
        for height, width in sizes:
            if min(height, width) < 1:
                raise InputError(f"an image of {height} x {width} pixels is empty; leave it out")
        return Layout.of_grids([(_cells(height, self.stride), _cells(width, self.stride)) for height, width in sizes])

    def forward(self, pixels: Pixels) -> VisualTokens:
        """Run to the deepest tap, bring the taps onto the grid, concatenate."""
        tiles, _, height, width = pixels.values.shape
        layout = self.plan([(height, width)] * tiles)
        maps = self.maps(pixels.values)
        grid = (_cells(height, self.stride), _cells(width, self.stride))
        cells = {tap: self._on_grid(found, tap, grid).permute(0, 2, 3, 1).flatten(0, 2) for tap, found in maps.items()}
        features = torch.cat([cells[tap] for tap in self.taps], dim=1)
        return VisualTokens.on_layout(features, layout, tuple(cells[level] for level in self.levels))

    def maps(self, values: Float[Tensor, "T C H W"]) -> dict[int, Tensor]:
        """The tapped maps `[T D h w]` by their strides."""
        wanted = {self.ends[tap][0]: tap for tap in (*self.taps, *self.levels)}
        blocks: Any = self.blocks[: max(wanted)]
        folded = self._folded(blocks)
        parts = [self._tapped(some, list(zip(blocks, folded, strict=True)), wanted) for some in _near(values)]
        return {tap: torch.cat([part[tap] for part in parts]) for tap in parts[0]} if len(parts) > 1 else parts[0]

    def _folded(self, blocks: Any) -> list[Any]:
        """What `blocks` fold to, held while none of their weights is another; folding costs a third of a tile."""
        weights = [weight for block in blocks for weight in (*block.parameters(), *block.buffers())]
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_plain, weights)):
            self._held = None
            return [block.folded() for block in blocks]
        told = _told(weights)
        now = [torch.is_inference_mode_enabled(), told.dtype, told.device]
        now += [(weight.data_ptr(), weight._version) for weight in weights]
        held = self._held  # once, for other threads may let go of it
        if held is None or held[0] != now or (len(told) and not torch.equal(held[1], told)):
            held = self._held = now, told, [block.folded() for block in blocks]
        return held[2]

    def _tapped(
        self, values: Tensor, blocks: Sequence[tuple[Any, Any]], wanted: Mapping[int, int]
    ) -> dict[int, Tensor]:
        found, maps = {}, self._stem(values)
        for done, (block, folded) in enumerate(blocks, start=1):
            maps = block(maps, folded)
            if done in wanted:
                found[wanted[done]] = maps
        return found

    def logits(self, values: Float[Tensor, "T C H W"]) -> Float[Tensor, "T N"]:
        """Scores of the N = 1000 ImageNet classes; raises InputError where the classifier was left out."""
        return self._classified(values, lambda cells: cells.mean((1, 2)))

    def chances(self, values: Float[Tensor, "T C H W"]) -> Float[Tensor, "T h w N"]:
        """The chances of these classes at every cell of 32 pixels by itself; takes the error of `logits`."""
        return self._classified(values, lambda cells: cells).softmax(-1)

    def _classified(self, values: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
        if self.head is None or self.classifier is None:
            raise InputError("this efficientnet_lite has no classifier; build it with classify: true")
        maps = self._stem(values)
        for block in self.blocks:
            maps = block(maps)
        return self.classifier(joined(_relu6(self.head(maps)).permute(0, 2, 3, 1)))

    def _stem(self, values: Tensor) -> Tensor:
        values = values.to(self.stem.conv.weight.dtype)
        return _relu6(self.stem(values.contiguous(memory_format=torch.channels_last)))

    def _on_grid(self, maps: Tensor, tap: int, grid: Grid) -> Tensor:
        if tap < self.stride and self.finer == "join":
            return _joined(maps, self.stride // tap, grid)
        if tap < self.stride:
            return F.avg_pool2d(maps, self.stride // tap, ceil_mode=True)
        if tap > self.stride:
            # by a whole factor and then cut, so that a cell stays over its pixels
            maps = F.interpolate(maps, scale_factor=float(tap // self.stride), mode=self.resample)
        return maps[:, :, : grid[0], : grid[1]]

    def _width(self, tap: int) -> int:
        """Numbers of a tap in one cell of the grid."""
        places = max(self.stride // tap, 1) ** 2 if self.finer == "join" else 1
        return places * self.ends[tap][1]

    def _freeze_unreached(self) -> None:
        """What no tap reaches gets no gradient, so it must not count as trainable."""
        deepest = max(self.ends[tap][0] for tap in (*self.taps, *self.levels))
        for part in (*self.blocks[deepest:], self.head, self.classifier):
            if part is not None:
                part.requires_grad_(False)


def _scaled(variant: int) -> list[tuple[int, int, int, int, int]]:
    """The stages of a variant: the first and last keep their depth, channels come in multiples of 8."""
    wide, deep = _SCALES[variant]
    ends = (0, len(_STAGES) - 1)
    return [
        (blocks if i in ends else math.ceil(blocks * deep), kernel, stride, expansion, _channels(channels * wide))
        for i, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES)
    ]


def _channels(wanted: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


def _joined(maps: Float[Tensor, "T D H W"], factor: int, grid: Grid) -> Float[Tensor, "T E h w"]:
    """The places of each block of `factor` x `factor` side by side, zeros where the image does not fill the grid."""
    below, right = (factor * cells - size for cells, size in zip(grid, maps.shape[-2:], strict=True))
    blocks = F.pad(maps, (0, right, 0, below)).unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def _cells(size: int, stride: int) -> int:
    return (size + stride - 1) // stride


def _plain(weight: Tensor) -> bool:
    """Whether it has a place and a version by which a change would be seen."""
    return type(weight) in (Tensor, nn.Parameter) and not (weight.is_meta or weight.is_inference())


def _told(weights: Sequence[Tensor]) -> Float[Tensor, " N"]:
    """The norms' vectors and the sum of each convolution's weights: through `data`, these change without a version.

    An accelerator would have to be waited for: there, what is changed so is not seen.
    """
    if weights[0].device.type != "cpu":
        return weights[0].new_zeros(0)
    sums = torch.stack([weight.sum() for weight in weights if weight.dim() > 1])
    return torch.cat([*(weight for weight in weights if weight.dim() == 1), sums])


def _near(values: Float[Tensor, "T C H W"]) -> Sequence[Tensor]:
    """The images in parts that pass one after another: on a CPU as many as its caches hold, else all at once."""
    if torch.compiler.is_compiling() or values.device.type != "cpu" or not len(values):
        return (values,)
    return values.split(max(1, _NEAR * torch.get_num_threads() // values[0, 0].nbytes))


def _relu6(maps: Tensor) -> Tensor:
    return F.relu6(maps, inplace=True)


def _check(variant: int, taps: tuple[int, ...], levels: tuple[int, ...], stride: int) -> None:
    if variant not in _SCALES:
        raise unknown("variant of efficientnet_lite", str(variant), map(str, _SCALES))
    known = ", ".join(map(str, _STRIDES))
    if not taps or len(set(taps)) < len(taps):
        raise InputError(f"efficientnet_lite taps are {taps}; give one or more of {known}, each once")
    asked = {"taps": taps, "levels": levels, "stride": (stride,)}
    for name, value in ((name, value) for name, values in asked.items() for value in values):
        if value not in _STRIDES:
            raise InputError(f"efficientnet_lite {name}: {value} is no stride of its maps; give one of {known}")
