from pathlib import Path

import torch
import yaml

import foveal
from foveal.cli import _recipe
from foveal.cli._looks import Looks
from foveal.cli._show import no_bar
from foveal.cli._training import carry_out
from tests.cli.test_train import TINY


def test_a_run_is_looked_at_as_it_will_be_with_its_adapters_merged(painted):
    stage = {"name": "adapt", "steps": 4, "batch_size": 4, "train": ["connector"], "lora": {"rank": 2}, "rate": 0.1}
    training = {**TINY["training"], "stages": [TINY["training"]["stages"][0], stage]}
    Path("tiny.yaml").write_text(yaml.safe_dump({**TINY, "data": {"path": "data"}, "training": training}))
    seen, after = [], []

    def look(run, share, progress):
        seen.append((share, progress.step, foveal.load(run).state_dict(), run))

    looks = Looks(
        shares=(0.5, 1.0), folder=Path("looks"), look=look, then=lambda share: after.append(seen[-1][3].exists())
    )
    told = {"fresh": False, "say": print, "bar": no_bar, "looks": looks}
    carry_out(_recipe.read("tiny.yaml"), Path("out"), **told)
    assert [entry[:2] for entry in seen] == [(0.5, 5), (1.0, 7)]
    assert after == [False, False] and not any(Path("looks").iterdir())
    half, whole, ended = seen[0][2], seen[1][2], foveal.load("out").state_dict()
    assert half.keys() == whole.keys() == ended.keys()
    assert all(torch.equal(whole[name], ended[name]) for name in ended)
    assert not torch.equal(half["model.connector.map.weight"], ended["model.connector.map.weight"])
