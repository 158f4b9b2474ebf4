"""The README is a path: its commands are run in order, as a newcomer types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.slow
def test_every_command_works(tmp_path):
    (tmp_path / "talk.py").write_text("\n".join(blocks("python")))
    first, *rest = blocks("bash")
    steps = ["set -euo pipefail", first, "python talk.py", *rest]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(steps)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "runs/mine/model.safetensors").is_file()


def test_the_example_line_is_an_example(tmp_path):
    from PIL import Image

    from foveal.data.format import read

    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/cat.png")
    (line,) = blocks("json")
    assert json.loads(line)
    (tmp_path / "mine.jsonl").write_text(line)
    assert len(read(tmp_path / "mine.jsonl")) == 1


def test_the_tree_names_what_is_there():
    named = set(re.findall(r"^  (\w+)(?:/|\.py)\s", README, flags=re.M))
    there = {
        p.stem for p in (ROOT / "src/foveal").iterdir() if not p.name.startswith(("_", ".")) and p.name != "py.typed"
    }
    assert named == there


def test_the_two_commands_are_targets():
    for target in re.findall(r"^make (\w+)$", README, flags=re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
