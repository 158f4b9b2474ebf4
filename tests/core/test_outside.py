"""Components of a package that is not ours, good ones and bad ones."""

import sys

import pytest

from foveal.core import outside
from foveal.core.errors import InputError
from foveal.core.lookup import build, kind, names, spec
from foveal.core.outside import known_as

CONFIG = """
from dataclasses import dataclass
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Config:
    hidden: int = 3

"""
COMPONENT = """
class Mine(nn.Module):
    def __init__(self, *, width_in, width_out, hidden=3):
        super().__init__()
        self.hidden = hidden

    def plan(self, layout):
        return layout

    def forward(self, visual):
        return visual
"""
GOOD = CONFIG + COMPONENT


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """Installs a connector `mine` that a module of these words holds; None: there is no such module."""
    folder = tmp_path / "strangers-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def install(words, entry="strangers_mine", name="mine"):
        (folder / "entry_points.txt").write_text(f"[foveal.connectors]\n{name} = {entry}\n")
        if words is not None:
            (tmp_path / "strangers_mine.py").write_text(words)
        outside.outside.cache_clear()

    yield install
    sys.modules.pop("strangers_mine", None)
    monkeypatch.undo()
    outside.outside.cache_clear()


def made(**settings):
    return build("connectors", spec("connectors", {"name": "mine", **settings}), width_in=2, width_out=4)


def test_a_component_of_another_package_is_found(strangers):
    strangers(GOOD)
    assert "mine" in names("connectors")
    assert made(hidden=5).hidden == 5


ORIGIN = "connectors.mine, which is strangers_mine of strangers, "
BAD = {
    COMPONENT.replace("(nn.Module)", "").replace("super().__init__()", ""): "has no Config; give it one: @dataclass",
    GOOD.replace("frozen=True, ", ""): "has a Config that is no frozen dataclass; give it one",
    GOOD.replace("Mine", "Other"): "has no class Mine; call its class so, by the name of the entry point",
    GOOD.replace("hidden=3):", "hidden=3, must):"): "is made of hidden, width_in, width_out, and the constructor of "
    "Mine disagrees: missing a required argument: 'must'",
    GOOD.replace("def plan", "def planned"): "is no Connector: Mine lacks plan; give it what foveal.core.interfaces.",
    GOOD.replace("def forward", "def forwards"): "is no Connector: Mine lacks forward; give it what",
    "import nothing_at_all": "cannot be imported: ModuleNotFoundError: No module named 'nothing_at_all'; mend that",
    "1 +": "cannot be imported: SyntaxError: invalid syntax",
    "raise RuntimeError": "cannot be imported: RuntimeError: it tells no more; mend that package",
}


@pytest.mark.parametrize(("words", "told"), BAD.items())
def test_what_a_component_lacks_is_told_in_one_line(strangers, words, told):
    strangers(words)
    with pytest.raises(InputError) as error:
        made()
    assert str(error.value).startswith(ORIGIN + told) and "\n" not in str(error.value)


def test_a_module_that_is_not_there_is_told(strangers):
    strangers(None, entry="strangers_gone")
    with pytest.raises(InputError, match="which is strangers_gone of strangers, cannot be imported: ModuleNotFoundErr"):
        made()


def test_an_entry_point_names_a_module(strangers):
    strangers(GOOD, entry="strangers_mine:Mine")
    with pytest.raises(InputError, match=r"is a type and no module; .* as in mine = 'strangers_mine'"):
        made()


@pytest.mark.parametrize("name", ["mine", "my_mine"])
def test_a_component_of_another_package_is_known_as_its_entry_point_is(strangers, name):
    strangers(GOOD + ("" if name == "mine" else "MyMine = Mine\n"), name=name)
    component = build("connectors", spec("connectors", name), width_in=2, width_out=4)
    assert known_as(component) == name
    ours = build("connectors", spec("connectors", "pixel_shuffle"), width_in=2, width_out=4)
    assert known_as(ours) == "pixel_shuffle"


def test_a_component_of_ours_is_replaced_by_none_of_another_package(strangers):
    strangers(GOOD, name="linear")
    told = (
        "connectors.linear, which is strangers_mine of strangers, bears the name of a component of Foveal's own; "
        "uninstall that package"
    )
    for ask in (spec, kind):
        with pytest.raises(InputError, match=told):
            ask("connectors", "linear")
    assert spec("connectors", "mlp").name == "mlp", "others stay as they are"
