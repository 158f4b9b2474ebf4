"""A faithful sentence on a starter scene: what is where, in reading order."""

from foveal.data import geometry
from foveal.data.drawings import article, plural
from foveal.data.layout import Item, Layout

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _places(layout: Layout, items: list[Item]) -> str:
    cells = sorted({geometry.cell(layout, i) for i in items}, key=geometry.REGIONS.index)
    return listed([f"the {c}" for c in cells])


def caption(layout: Layout) -> str:
    """One sentence that names every drawing and word with its region of the 3x3 grid."""
    groups: dict[str, list[Item]] = {}
    for item in sorted(layout.drawings, key=lambda i: geometry.REGIONS.index(geometry.cell(layout, i))):
        groups.setdefault(item.name, []).append(item)
    parts = [
        f"{article(name) if len(items) == 1 else f'{_NUMBERS[len(items)]} {plural(name)}'} at {_places(layout, items)}"
        for name, items in groups.items()
    ]
    parts += [f"the word '{i.name}' in {i.ink} at {_places(layout, [i])}" for i in layout.words]
    return f"A picture with {listed(parts)}."
