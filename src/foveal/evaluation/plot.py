"""Small drawings for a page, as inline SVG: a curve over steps, and a rate on its scale from 0 to 1."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from foveal.evaluation.score import Rate

WIDTH, HEIGHT = 720.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 22.0, 34.0  # room for the labels of the axes, and for the stages' names

Number = int | float
Point = tuple[Number, Number]


def ticks(low: Number, high: Number, *, about: int = 5) -> list[Number]:
    """Round numbers within `low` and `high`: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((times * power for times in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def smooth(points: Sequence[Point], *, span: int) -> list[Point]:
    """The running mean over the `span` points around each, fewer at the ends."""
    half = span // 2
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    bounds = [(max(0, i - half), min(len(points), i + half + 1)) for i in range(len(points))]
    return [(points[i][0], (sums[end] - sums[start]) / (end - start)) for i, (start, end) in enumerate(bounds)]


def thin(points: Sequence[Point], *, most: int) -> list[Point]:
    """At most `most` of the points, evenly spaced, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def curve(stages: Mapping[str, Sequence[Point]], *, name: str = "loss", across: str = "step") -> str:
    """A curve of `name` over `across`, stage after stage: every point faintly, their running mean clearly."""
    points = [point for stage in stages.values() for point in stage if math.isfinite(point[1])]
    if len(points) < 2:
        return f'<p class="quiet">Too few points for a curve of the {escape(name)}.</p>'
    start, end = points[0][0], max(points[-1][0], points[0][0] + 1)
    top = sorted(y for _, y in points)[int(0.995 * (len(points) - 1))] * 1.06 or 1.0  # one spike must not set the scale

    def at(point: Point) -> Point:
        x = LEFT + (point[0] - start) / (end - start) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - min(point[1] / top, 1.0) * (HEIGHT - TOP - BOTTOM)

    parts = _axes(start, end, top, at, name=name, across=across)
    for number, (stage, raw) in enumerate(stages.items()):
        kept = [point for point in raw if math.isfinite(point[1])]
        if not kept:
            continue
        mean = smooth(kept, span=max(1, len(kept) // 25))
        parts += [_line(map(at, thin(kept, most=600)), "raw"), _line(map(at, thin(mean, most=200)), "mean")]
        x = at(kept[0])[0]
        if len(stages) > 1:
            parts.append(f'<text class="stage" x="{x + 5:.1f}" y="{TOP - 8:.1f}">{escape(stage)}</text>')
        if number:
            parts.append(f'<path class="border" d="M{x:.1f} {TOP - 18:.1f}V{HEIGHT - BOTTOM:.1f}"/>')
    said = f"{name} over {across}: from {points[0][1]:.3g} to {points[-1][1]:.3g} in {len(points)} records"
    label = f'role="img" aria-label="{escape(said)}"'
    return f'<svg class="curve" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" {label}>{"".join(parts)}</svg>'


def _axes(
    start: Number, end: Number, top: Number, at: Callable[[Point], Point], *, name: str, across: str
) -> list[str]:
    parts = []
    for y in ticks(0, top, about=4):
        _, high = at((start, y))
        parts.append(f'<path class="grid" d="M{LEFT:.1f} {high:.1f}H{WIDTH - RIGHT:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8:.1f}" y="{high + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(start, end, about=6):
        far, _ = at((x, 0))
        low = HEIGHT - BOTTOM + 16
        parts.append(f'<text class="tick" x="{far:.1f}" y="{low:.1f}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT:.1f}" y="{HEIGHT - 2:.1f}" text-anchor="end">{escape(across)}</text>'
    )
    parts.append(f'<text class="tick" x="0" y="{TOP - 8:.1f}">{escape(name)}</text>')
    return parts


def _line(points: Iterable[Point], kind: str) -> str:
    return f'<path class="{kind}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>'


def scale(rate: Rate, marks: Mapping[str, float]) -> str:
    """A rate as a bar from 0 to 1 with its interval, and a mark of its own form for each named baseline."""
    said = f"{rate.value:.1%}, 95% interval {rate.low:.1%} to {rate.high:.1%}"
    said += "".join(f"; {name} {value:.1%}" for name, value in marks.items())
    parts = [
        '<line class="track" x1="0" x2="100%" y1="11" y2="11"/>',
        f'<rect class="fill" width="{rate.value:.2%}" y="5" height="12" rx="2"/>',
        f'<line class="whisker" x1="{rate.low:.2%}" x2="{rate.high:.2%}" y1="11" y2="11"/>',
    ]
    for name, value in marks.items():
        parts.append(f'<line class="mark {escape(name)}" x1="{value:.2%}" x2="{value:.2%}" y1="1" y2="21"/>')
    return f'<svg class="scale" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
