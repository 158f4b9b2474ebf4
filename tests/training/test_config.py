"""Training settings: plain data that reads back, and refuses what cannot be."""

import pytest

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.training.config import Features, Lora, Stage, TrainingConfig


def test_settings_read_back():
    config = TrainingConfig(
        stages=(Stage(steps=3, lora=Lora(), kinds={"a": 2.0}), Stage(name="b", minutes=1.5)), features=Features()
    )
    assert parse(TrainingConfig, dump(config), where="training") == config
    assert parse(TrainingConfig, {"stages": [{"steps": 2, "rate": "1e-4"}]}, where="t").stages[0].rate == 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": [{"steps": 1, "epochs": 1}]}, "has steps and epochs; give one"),
        ({"stages": [{}]}, "has no end; give one"),
        ({"stages": [{"steps": 0}]}, "steps 0; give more than 0"),
        ({"stages": [{"steps": 1, "train": []}]}, "trains nothing"),
        ({"stages": []}, "no stages"),
        ({"stages": [{"steps": 1}, {"steps": 1}]}, "two stages have one name"),
        ({"keep": 0}, "keep at least 1"),
        ({"stages": [{"steps": 1, "batchsize": 3}]}, "did you mean 'batch_size'"),
        ({"stages": [{"steps": 1, "precision": "fp16"}]}, "unknown value of training.stages"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        parse(TrainingConfig, wrong, where="training")
