"""The house's own rules: sizes, ASCII, a test file for every component, nothing written into an __init__."""

import ast
import re
from pathlib import Path

import pytest

from foveal.core.lookup import class_name, module, names

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "foveal"
CODE = sorted([*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
ROOMS = ("vision", "connectors", "fusion", "language", "heads")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii(), f"{path}: ASCII in code"
    assert text.count("\n") <= 400, f"{path}: a file has at most 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            given = [a for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs] if a.arg != "self"]
            assert lines <= 60, f"{path}:{node.lineno} {node.name}: {lines} lines, at most 60"
            limit = 10 if not _is_flat(path, node) else 24
            assert len(given) <= limit, f"{path}:{node.lineno} {node.name}: {len(given)} parameters, at most {limit}"


def _is_flat(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A component's constructor takes its Config's settings flat, a command its options: data, not arguments."""
    component = node.name == "__init__" and path.parent.name in ROOMS
    named = node.name == "command" or any(ast.unparse(made) == "app.command()" for made in node.decorator_list)
    return component or (path.parent.name == "cli" and named)


@pytest.mark.parametrize("room", ROOMS)
def test_every_component_has_config_class_and_test(room):
    assert names(room)
    for name in names(room):
        found = module(room, name)
        assert hasattr(found, "Config"), f"{room}/{name}.py lacks its Config"
        assert hasattr(found, class_name(name)), f"{room}/{name}.py lacks its class {class_name(name)}"
        assert (ROOT / "tests" / room / f"test_{name}.py").exists(), f"tests/{room}/test_{name}.py is missing"


def test_no_machine_is_named():
    pattern = re.compile(r"/(work|root|home)/\w+|pypi\.org|files\.pythonhosted|registry\.npmjs")
    places = [*CODE, ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]
    for path in places:
        if path.name != "test_house.py":
            assert not pattern.search(path.read_text(encoding="utf-8")), f"{path} names a machine's path or a registry"
