import json

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.config import Lora, Stage, Then, TrainingConfig
from foveal.training.loop import train
from foveal.training.watch import Watch

TRAINED = ("connector", "language")
LORA = Lora(rank=2, dropout=0.5)  # which draws: a look must not draw before it


@pytest.fixture
def trained(world):
    """Trains two stages, of which the last changes what learns; returns the weights and the losses."""
    shared = {"train": TRAINED, "batch_size": 4, "rate": 1e-2}
    last = Stage(name="last", steps=8, then=(Then(at=0.5, train=("language",)),), lora=LORA, **shared)
    config = TrainingConfig(stages=(Stage(name="first", steps=3, **shared), last), log_every=3, device="cpu")

    def run(out, **watched):
        model = world.model()
        train(model, world.data, config=config, collate=world.collate(model), out=out, **watched)
        rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        return model.state_dict(), [(row["step"], row["loss"]) for row in rows]

    return run


def same(one, other):
    assert one[1] == other[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_a_look_changes_nothing_and_finds_a_checkpoint(trained, tmp_path):
    seen = []

    def look(stage, share, progress):
        torch.rand(7)
        seen.append((stage.name, share, progress.step))
        assert (tmp_path / f"a/checkpoints/step-{progress.step:08d}-stage-01/state.json").is_file()

    watched = trained(tmp_path / "a", watch=Watch(shares=(0.25, 0.3, 0.75), look=look))
    assert seen == [("last", 0.25, 5), ("last", 0.3, 6), ("last", 0.75, 9)]
    same(watched, trained(tmp_path / "b"))


def test_what_ends_within_a_look_goes_on_with_it(trained, tmp_path):
    seen = []

    def look(stage, share, progress):
        seen.append((share, progress.step))
        if seen == [(0.25, 5), (0.75, 9)]:
            raise InputError("enough")

    watch = Watch(shares=(0.25, 0.75), look=look)
    with pytest.raises(InputError, match="enough"):
        trained(tmp_path / "a", watch=watch)
    resumed = trained(tmp_path / "a", watch=watch)
    assert seen == [(0.25, 5), (0.75, 9), (0.25, 9), (0.75, 9)]
    same(resumed, trained(tmp_path / "b"))
