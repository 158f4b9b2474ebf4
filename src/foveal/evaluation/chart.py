"""A chart of accuracy against a cost, as inline SVG: points with intervals, and the front that no other beats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from foveal.evaluation.plot import BOTTOM, LEFT, RIGHT, TOP, ticks
from foveal.evaluation.score import Rate

WIDTH, HEIGHT = 720.0, 360.0
FORMS = 8  # how many systems have a form and a hue of their own


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of the chart; marks of one `group` share form and hue."""

    name: str
    group: str
    x: float
    rate: Rate
    best: bool = False


def number(value: int | float) -> str:
    """A large number in few letters: 1.2k, 34M, 5.6G."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def chart(marks: Sequence[Mark], *, across: str) -> str:
    """The marks over a logarithmic scale of their cost, best ones joined; a sentence where there is none to draw."""
    shown = [mark for mark in marks if mark.x > 0]
    if not shown:
        return f'<p class="quiet">Nothing to draw over {escape(across)}.</p>'
    least, most = min(mark.x for mark in shown) / 1.15, max(mark.x for mark in shown) * 1.15
    low = max(0.0, math.floor(20 * min(mark.rate.low for mark in shown) - 0.2) / 20)
    high = min(1.0, math.ceil(20 * max(mark.rate.high for mark in shown) + 0.2) / 20)

    def at(x: float, y: float) -> tuple[float, float]:
        along = math.log(x / least) / math.log(most / least)
        up = (y - low) / max(1e-9, high - low)
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(low, high, about=5):
        _, height = at(least, y)
        parts.append(f'<path class="grid" d="M{LEFT:.1f} {height:.1f}H{WIDTH - RIGHT:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8:.1f}" y="{height + 4:.1f}" text-anchor="end">{y:.0%}</text>')
    for x in _powers(least, most):
        far, _ = at(x, low)
        parts.append(
            f'<text class="tick" x="{far:.1f}" y="{HEIGHT - BOTTOM + 16:.1f}" text-anchor="middle">{number(x)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT:.1f}" y="{HEIGHT - 2:.1f}" text-anchor="end">{escape(across)}</text>'
    )
    best = sorted((mark for mark in shown if mark.best), key=lambda mark: mark.x)
    if len(best) > 1:
        line = "L".join("{:.1f} {:.1f}".format(*at(mark.x, mark.rate.value)) for mark in best)
        parts.append(f'<path class="front" d="M{line}"/>')
    groups = list(dict.fromkeys(mark.group for mark in marks))
    parts += [_mark(mark, at(mark.x, mark.rate.value), at, groups.index(mark.group) % FORMS) for mark in shown]
    said = f"accuracy over {across}: " + "; ".join(
        f"{mark.name} {mark.rate.value:.1%} at {number(mark.x)}" for mark in shown
    )
    label = f'role="img" aria-label="{escape(said)}"'
    return f'<svg class="curve" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" {label}>{"".join(parts)}</svg>' + legend(groups)


def legend(groups: Sequence[str]) -> str:
    """Which form and hue is which group."""
    keys = "".join(
        '<span class="whole"><svg class="key" viewBox="-9 -9 18 18" aria-hidden="true">'
        f"{_form(i % FORMS, 0.0, 0.0)}</svg>"
        f"{escape(group)}</span> "
        for i, group in enumerate(groups)
    )
    return f'<p class="legend">{keys}</p>'


def _powers(least: float, most: float) -> list[float]:
    """Round numbers on a logarithmic scale: powers of ten, with their multiples where these are too few."""
    powers = [10.0**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    found: list[float] = []
    for times in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10)), tuple(i / 10 for i in range(10, 100))):
        found = [power * by for power in powers for by in times if least <= power * by <= most]
        if len(found) > 2:
            break
    return found[:: max(1, len(found) // 8)]


def _mark(mark: Mark, where: tuple[float, float], at: object, form: int) -> str:
    x, y = where
    (_, low), (_, high) = at(mark.x, mark.rate.low), at(mark.x, mark.rate.high)  # type: ignore[operator]
    told = f"{mark.name}: {mark.rate.value:.1%} ({mark.rate.low:.1%} to {mark.rate.high:.1%}) at {number(mark.x)}"
    return (
        f'<g class="point"><title>{escape(told)}</title>'
        f'<path class="bar hue{form}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>{_form(form, x, y)}</g>'
    )


def _form(form: int, x: float, y: float) -> str:
    """A circle, a square, a diamond or a triangle, filled, then the same again as outlines."""
    shapes = (
        f"M{x - 5:.1f} {y:.1f}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
        f"M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9Z",
        f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6Z",
        f"M{x:.1f} {y - 6:.1f}l5.5 10h-11Z",
    )
    return f'<path class="form hue{form}{" open" if form >= len(shapes) else ""}" d="{shapes[form % len(shapes)]}"/>'
