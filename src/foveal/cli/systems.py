"""`foveal systems`: which systems there are, each by the recipe that trains it."""

from collections.abc import Mapping
from typing import Any

import typer

from foveal.core.errors import InputError


def command(as_json: bool = typer.Option(False, "--json", help="Print one JSON list instead of a table.")) -> None:
    """List the systems: family, paper, parameters, and the recipe that trains each."""
    from foveal.cli import _recipe, _show

    rows = [row(_recipe.read(name)) for name in _recipe.names()]
    rows.sort(key=lambda row: (FAMILIES.index(row["family"]), row["system"], row["recipe"]))
    if as_json:
        _show.print_json(rows)
        return
    console = _show.console()
    heads = ["family", "system", "paper", "recipe", "vision", "parameters", "in its paper"]
    lines = [
        [
            entry["family"],
            entry["system"],
            entry["paper"],
            entry["recipe"],
            *_sizes(entry["parameters"], entry["vocabulary"]),
            _millions(entry["reference"]) if entry["reference"] else "",
        ]
        for entry in rows
    ]
    console.print(_show.table(heads, lines, left=["system", "paper", "recipe"]))
    console.print("in its paper: the parts that the recipe trains first, as large as there", style="dim")
    if any(entry["vocabulary"] is None for entry in rows):
        console.print("+ words: their embeddings, as many as the training data have words", style="dim")
    console.print("train one: foveal train RECIPE", style="dim")


FAMILIES = ("early", "mid", "late", "hybrid")
MANY = 1 << 16  # words: more than any part of a recipe speaks of by number


def row(recipe: Any) -> dict[str, Any]:
    """A recipe as a row, with the parameters of each part; InputError where its header lacks something."""
    for field in ("system", "family", "paper"):
        if not getattr(recipe, field):
            raise InputError(f"recipe {recipe.name} has no {field}; give it one, for foveal systems to show")
    if recipe.family not in FAMILIES:
        raise InputError(f"recipe {recipe.name} is of family {recipe.family!r}; give one of {', '.join(FAMILIES)}")
    model = begun(recipe)
    given = model.get("language") or {"vocabulary": 0}  # where nothing is read or written
    vocabulary = None if isinstance(given, str) else given.get("vocabulary")
    counts = parameters(model, MANY if vocabulary is None else vocabulary)
    if vocabulary is None:  # the words are the data's: what each adds is taken off
        more = parameters(model, MANY + 1)
        counts = {part: count - MANY * (more[part] - count) for part, count in counts.items()}
    header = {name: getattr(recipe, name) for name in ("system", "family", "paper", "about")}
    return {
        "recipe": recipe.name,
        **header,
        "vocabulary": vocabulary,
        "parameters": {**counts, "all": sum(counts.values())},
        "reference": None if recipe.reference is None else referred(recipe),
    }


def begun(recipe: Any) -> dict[str, Any]:
    """The components of a recipe, with those of the run that it begins from; InputError where there is none."""
    from foveal.weights.directory import described
    from foveal.weights.packaged import place

    if "from" not in recipe.init:
        return dict(recipe.model)
    if (run := described(place(recipe.init["from"]))) is None:
        raise InputError(f"init.from {recipe.init['from']} is no run; name the directory of one, or starter")
    return {**run["model"], **recipe.model}


def referred(recipe: Any) -> int:
    """How many parameters the counted parts have where the model is as large as its paper's."""
    from foveal.models.assembly import empty
    from foveal.models.config import ModelConfig

    built = empty(ModelConfig.parse({**recipe.model, **recipe.reference.model}))
    inside = tuple(f"{part}." for part in recipe.reference.parts)
    return sum(weight.numel() for name, weight in built.named_parameters() if name.startswith(inside))


def parameters(model: Mapping[str, Any], vocabulary: int) -> dict[str, int]:
    """How many parameters each part of a model has, each weight once; counted on a model that takes no memory."""
    from foveal.cli._recipe import worded
    from foveal.models.assembly import empty
    from foveal.models.config import ModelConfig

    built = empty(ModelConfig.parse(worded(model, vocabulary)))
    counts = dict.fromkeys((name for name, part in built.named_children() if part is not None), 0)
    for name, weight in built.named_parameters():
        counts[name.partition(".")[0]] += weight.numel()
    return counts


def _sizes(counts: Mapping[str, int], vocabulary: int | None) -> list[str]:
    words = " + words" if vocabulary is None else ""
    vision = counts.get("vision", 0)
    return [_millions(vision) if vision else "-", _millions(counts["all"]) + words]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count < 1e9 else f"{count / 1e9:.1f}B"
