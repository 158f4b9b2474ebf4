import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.training.objectives.choose import choose


def model():
    torch.manual_seed(0)
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2}
    parts = {"assembly": "masked", "fusion": "single_stream", "language": language}
    return assemble(ModelConfig.parse({**parts, "heads": {"answer": {"name": "classification", "labels": 4}}}))


def batch(**targets):
    ids = torch.randint(1, 9, (3, 5), generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), targets=targets)


def test_it_is_the_cross_entropy_of_the_known_answers():
    given = batch(answer=torch.tensor([2, -100, 0]))
    net = model()
    loss, count = choose(net, given)
    chances = net(given).heads["answer"].log_softmax(-1)
    assert count == 2
    assert loss.item() == pytest.approx(-(chances[0, 2] + chances[2, 0]).item(), rel=1e-5)


def test_without_answers_or_their_head_it_says_so():
    with pytest.raises(InputError, match="names no answers"):
        choose(model(), batch())
    with pytest.raises(InputError, match="no head 'word' but answer"):
        choose(model(), batch(answer=torch.zeros(3, dtype=torch.long)), head="word")
