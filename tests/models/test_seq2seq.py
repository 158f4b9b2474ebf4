import pytest
import torch

from foveal.core.errors import InputError
from foveal.models import causal
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig

LANGUAGE = {"vocabulary": 20, "width": 16, "depth": 1, "heads": 2}
PARTS = {"assembly": "seq2seq", "features": 6, "fusion": "memory"}


def test_comes_back_from_its_config():
    model = assemble(ModelConfig.parse({**PARTS, "language": {"name": "sequence_decoder", **LANGUAGE}}))
    assert ModelConfig.parse(model.config.dump()) == model.config
    with torch.device("meta"):
        assert model.state_dict().keys() == assemble(model.config).state_dict().keys()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": None}, "nothing to look at"),
        ({"fusion": "prefix"}, "differ on who looks"),
        ({"language": {"name": "decoder", **LANGUAGE}}, "differ on who looks"),
        ({"language": {"name": "decoder", **LANGUAGE}, "fusion": "prefix"}, "reads no memory"),
    ],
)
def test_refuses_parts_that_leave_nothing_to_look_at(changed, said):
    parts = {**PARTS, "language": {"name": "sequence_decoder", **LANGUAGE}, **changed}
    with pytest.raises(InputError, match=said):
        assemble(ModelConfig.parse({key: part for key, part in parts.items() if part is not None}))


def test_a_causal_model_refuses_a_memory_that_nobody_reads():
    parts = {"features": 6, "fusion": "memory", "language": {"name": "decoder", **LANGUAGE}}
    with pytest.raises(InputError, match="'memory' and language 'decoder' differ"):
        causal.assemble(ModelConfig.parse(parts))
