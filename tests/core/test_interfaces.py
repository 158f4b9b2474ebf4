"""The rooms ask each other for nothing that the interfaces leave out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import foveal
from foveal.core import interfaces

HOUSE = Path(foveal.__file__).parent
ROOMS = ("models", "decode", "training", "evaluation", "fusion", "connectors", "cli")
PARTS = {"vision", "connector", "fusion", "over", "language", "spender", "allocator", "layer", "head", "part"}
OWN = {"forward", "embedding_dim", "config"}  # torch's, and those of a whole model


def asked() -> Iterator[tuple[str, str]]:
    """The names that the rooms ask a component for without knowing whether it has them, and where."""
    for file in sorted(path for room in ROOMS for path in (HOUSE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr")):
                continue
            whom, name = ast.unparse(node.args[0]), node.args[1]
            if isinstance(name, ast.Constant) and re.split(r"[._]", whom)[-1] in PARTS:
                yield str(name.value), f"{file.relative_to(HOUSE)}:{node.lineno}"


def test_what_a_component_may_have_is_written_in_its_interface():
    written = (HOUSE / "core" / "interfaces.py").read_text(encoding="utf-8")
    found = list(asked())
    assert len(found) > 50
    silent = [
        f"{name} ({where})" for name, where in found if name not in OWN and not re.search(rf"\b{name}\b", written)
    ]
    assert not silent, silent


@pytest.mark.parametrize("name", ["VisionEncoder", "Connector", "Allocator", "LanguageModel", "Fusion", "Head"])
def test_every_room_has_an_interface_that_says_what_it_is(name):
    assert getattr(interfaces, name).__doc__
