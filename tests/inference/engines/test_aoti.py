"""Packages of AOTInductor: written once by the command, then read where there is no compiler."""

import json
import shutil

import pytest
import torch
from PIL import Image

import foveal
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.core.types import Batch
from tests.cli.conftest import WORDS
from tests.inference.conftest import traceable as traceable
from tests.tiny import tiny_run


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run, and where it will be exported to."""
    folder = tmp_path_factory.mktemp("aoti")
    tiny_run(WORDS).save(folder / "run")
    return folder / "run", folder / "out"


def test_the_command_writes_packages_that_say_the_same(both, capsys):
    assert run(["export", str(both[0]), "--to", "aoti", "--out", str(both[1]), "--size", "40", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] and told["computed_by"] == "AOTInductor, on the processor"
    files = {name: (both[1] / f"{name}.pt2").stat().st_size for name in ("vision", "connector", "layers", "head")}
    assert told["bytes"] == files and not list(both[1].glob("*.onnx"))


@pytest.mark.parametrize("threads", [1, 2])
def test_no_compiler_is_needed_to_run_them_in_rows_on_any_threads(both, monkeypatch, threads):
    monkeypatch.setenv("PATH", "")
    one, other = map(foveal.load, both)
    pictures = [Image.effect_noise((40, 30), spread).convert("RGB") for spread in (20, 60, 100)]
    texts = ["Where is the fox", "How many", "Is there an owl maybe"]
    asked = [*zip(pictures, texts, strict=True)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for more in ({}, {"budget": 3}):
            for one_asked in asked:
                answers = [side.answer(*one_asked, max_new_tokens=5, **more) for side in (one, other)]
                assert answers[0] == answers[1]
        rows = one.processor.tokenizer(["one two three", "yes no maybe"], return_tensors="pt").input_ids
        batch = Batch(
            input_ids=rows,
            valid=torch.ones_like(rows, dtype=torch.bool),
            prompt=torch.ones_like(rows, dtype=torch.bool),
            image_slot=torch.full_like(rows, -1),
        )
        torch.testing.assert_close(other(batch).logits, one(batch).logits, atol=1e-4, rtol=1e-3)
    finally:
        torch.set_num_threads(before)


def test_a_package_of_another_processor_and_one_that_is_none_are_told(both, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(both[1], folder)
    (folder / "head.pt2").write_bytes(b"no")
    with pytest.raises(InputError, match=r"head\.pt2 holds no graph .*export the model anew"):
        foveal.load(folder)
    manifest = folder / "graphs.json"
    manifest.write_text(manifest.read_text().replace(torch.backends.cpu.get_cpu_capability(), "NEON"))
    with pytest.raises(InputError, match="was compiled for a processor with NEON, and this one has"):
        foveal.load(folder)


def test_without_a_compiler_the_way_to_one_is_told(both, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert run(["export", str(both[0]), "--to", "aoti", "--out", str(tmp_path / "out")]) == 2
    assert "aoti compiles by a C++ compiler, and there is no" in capsys.readouterr().err
