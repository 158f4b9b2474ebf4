import json
import subprocess
import sys

import pytest

from foveal.cli import _recipe
from foveal.cli.main import run
from foveal.cli.systems import FAMILIES, parameters, row
from foveal.core.errors import InputError
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

RECIPE = {
    "system": "llava",
    "family": "late",
    "paper": "2304.08485",
    "model": {
        "vision": {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16},
        "connector": "mlp",
        "language": {"name": "decoder", "width": 32, "depth": 2},
        "head": {"name": "language_model", "tied": True},
    },
    "data": {"path": "somewhere"},
    "training": {"stages": [{"epochs": 1}]},
}


def test_every_recipe_is_a_row(capsys):
    assert run(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(entry["recipe"] for entry in rows) == _recipe.names()
    for entry in rows:
        assert entry["family"] in FAMILIES
        assert entry["system"] and entry["paper"] and entry["about"]
        parts = dict(entry["parameters"])
        assert parts.pop("all") == sum(parts.values()) > 0


def test_the_table_names_every_recipe(capsys):
    assert run(["systems"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in _recipe.names())


@pytest.mark.parametrize("vocabulary", [None, 40])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_built_model(vocabulary, tied):
    language = {**RECIPE["model"]["language"], **({} if vocabulary is None else {"vocabulary": vocabulary})}
    model = {**RECIPE["model"], "language": language, "head": {"name": "language_model", "tied": tied}}
    counted = row(_recipe.of({**RECIPE, "model": model}, name="one"))["parameters"]["all"]
    words = vocabulary or 7
    built = assemble(ModelConfig.parse({**model, "language": {**language, "vocabulary": words}}))
    embeddings = 0 if vocabulary else words * 32 * (1 if tied else 2)
    assert counted == sum(weight.numel() for weight in built.parameters()) - embeddings


def test_a_tied_table_is_counted_once():
    assert parameters(RECIPE["model"], 50)["head"] == 0


@pytest.mark.parametrize(("change", "said"), [({"paper": ""}, "has no paper"), ({"family": "latte"}, "family 'latte'")])
def test_a_header_that_lacks_something_is_told(change, said):
    with pytest.raises(InputError, match=said):
        row(_recipe.of({**RECIPE, **change}, name="one"))


def test_it_does_not_wait_for_the_compiler():
    """Weights without memory are not drawn: torch would load its compiler for that, seconds that nothing is worth."""
    code = "import sys; from foveal.cli.main import run; run(['systems']); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
