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
        ({"stages": [{"minutes": "nan"}]}, "minutes nan; give more than 0"),
        ({"stages": [{"steps": 1, "rate": "inf"}]}, "rate inf; give more than 0"),
        ({"stages": [{"steps": 1, "group_limit": 0}]}, "group_limit 0; give more than 0"),
        ({"stages": [{"steps": 1, "pack": 1000000}]}, "pack 1000000; give up to 131,072 tokens a row"),
        ({"stages": [{"steps": 1, "floor": 2}]}, "floor 2.0; give a share from 0 to 1"),
        ({"stages": [{"steps": 1, "betas": [0.9, 1.5]}]}, "betas.1 1.5; give a share from 0 to 1"),
        ({"stages": [{"steps": 1, "betas": [0.9, 1.0]}]}, "betas.1 1.0; give a share from 0 to 1, without 1 itself"),
        ({"stages": [{"steps": 1, "name": "../../evil"}]}, "a stage is called '../../evil', .*without slashes"),
        ({"stages": [{"steps": 1, "name": "/tmp/evil"}]}, "a stage is called '/tmp/evil'"),
        ({"stages": [{"steps": 1, "name": ".."}]}, r"a stage is called '\.\.'"),
        ({"stages": [{"steps": 1, "name": ""}]}, "a stage is called ''"),
        ({"stages": [{"steps": 1, "weight_decay": -1}]}, "weight_decay -1.0; give 0 or more"),
        ({"stages": [{"steps": 1, "rates": {"head": "nan"}}]}, "rates.head nan; give 0 or more"),
        ({"stages": [{"steps": 1, "kinds": {"a": "nan"}}]}, "kinds.a nan; give 0 or more"),
        ({"stages": [{"steps": 1, "kinds": {"a": "inf"}}]}, "kinds.a inf; give 0 or more"),
        ({"stages": [{"steps": 1, "then": [{"at": "nan", "train": ["head"]}]}]}, "changes what learns at nan"),
        ({"stages": [{"steps": 1, "lora": {"rank": 0}}]}, "lora.rank is 0; give 1 or more"),
        ({"stages": [{"steps": 1, "lora": {"alpha": 0}}]}, "lora.alpha is 0; give more than 0"),
        ({"stages": [{"steps": 1, "lora": {"dropout": 2}}]}, "lora.dropout is 2; give a share from 0 to below 1"),
        ({"stages": [{"steps": 1, "lora": {"targets": []}}]}, "lora.targets is empty; name linear maps"),
        ({"seed": -1}, "training.seed is -1; give a number from 0 to 4,294,967,295"),
        ({"seed": 2**32}, "training.seed is 4294967296; give a number from 0"),
        ({"log_every": 0}, "training.log_every is 0; tell of every 1 step or more"),
        ({"workers": -1}, "training.workers is -1; give 0 or more"),
        ({"max_minutes": -1}, "training.max_minutes is -1.0; give 0 or more"),
        ({"checkpoint_minutes": "nan"}, "training.checkpoint_minutes is nan; give 0 or more"),
        ({"features": {"batch_size": 0}}, "features.batch_size is 0; give 1 or more"),
        ({"stages": [{"steps": 1, "precision": "fp16"}]}, "unknown value of training.stages"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        parse(TrainingConfig, wrong, where="training")
