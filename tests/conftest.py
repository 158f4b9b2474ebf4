"""What every test may use."""

import json
import os
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings
from safetensors.torch import load_file

from tests.checked import checked

jaxtyping.jaxtyped = checked
settings.register_profile("foveal", deadline=None)  # a busy machine is no fault
settings.load_profile("foveal")

ROOT = Path(__file__).parent.parent


class Fixture:
    """One reference system's known answers: its config, weights, inputs and outputs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.meta = json.loads((folder / f"{name}.json").read_text())
        self.config = self.meta["config"]
        tensors = load_file(folder / f"{name}.safetensors")
        self.weights, self.inputs, self.outputs = (
            {key[len(part) :]: value for key, value in tensors.items() if key.startswith(part)}
            for part in ("w.", "in.", "out.")
        )


@pytest.fixture(scope="session")
def known_answers():
    """`known_answers("lm_llama")` reads a fixture; without its folder the test is skipped, in CI it fails."""
    wanted = os.environ.get("FOVEAL_FIXTURES")
    folder = Path(wanted) if wanted else ROOT.parent / "shared" / "fixtures"

    def read(name: str) -> Fixture:
        if not (folder / f"{name}.json").exists():
            if wanted:
                raise FileNotFoundError(f"{folder / name}.json: FOVEAL_FIXTURES names a folder without it")
            pytest.skip("known answers are not at hand; set FOVEAL_FIXTURES to their folder")
        return Fixture(folder, name)

    return read


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables are not cut, whoever has told the process a width."""
    monkeypatch.delenv("COLUMNS", raising=False)
