import math

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.training.objectives.pick import pick

CO_ATTENTION = {"name": "co_attention", "width_of_sight": 8, "layers": 1, "heads": 2, "inner": 8, "words_inner": 8,
                "schedule": [[1, 0]]}  # fmt: skip
SYSTEMS = [("single_stream", "classification"), (CO_ATTENTION, "paired")]


def model(fusion="single_stream", head="classification", labels=1):
    torch.manual_seed(0)
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 2, "heads": 2}
    parts = {"assembly": "masked", "fusion": fusion, "language": language, "features": 6, "connector": "linear"}
    return assemble(ModelConfig.parse({**parts, "heads": {"choice": {"name": head, "labels": labels}}}))


def batch(*, choices=3, **targets):
    """Two questions of three choices about an image of two regions each."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 9, (6, 7), generator=chance)
    slots = torch.full_like(ids, -1)
    slots[:3, 2:4], slots[3:, 2:4] = torch.arange(2), torch.arange(2, 4)
    valid = torch.ones_like(ids, dtype=torch.bool)
    layout = Layout(counts=(2, 2), grids=(None, None))
    seen = VisualTokens.on_layout(torch.randn(4, 6, generator=chance), layout)
    owner = torch.tensor([0, 3])
    shown = {"image_slot": slots, "visual": seen, "owner": owner}
    return Batch(input_ids=ids, valid=valid, prompt=valid, choices=choices, targets=targets, **shown)


@pytest.mark.parametrize(("fusion", "head"), SYSTEMS)
def test_it_is_the_cross_entropy_of_the_right_row_among_those_of_its_question(fusion, head):
    given, net = batch(choice=torch.tensor([2, 0])), model(fusion, head)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5) if weight.ndim > 1 else None
    loss, count, parts = pick(net, given)
    scores = net(given).heads["choice"][:, 0].tolist()
    chances = [
        math.exp(scores[2]) / sum(map(math.exp, scores[:3])),
        math.exp(scores[3]) / sum(map(math.exp, scores[3:])),
    ]
    assert count == 2
    assert loss.item() == pytest.approx(-sum(map(math.log, chances)), rel=1e-4)
    hits = (max(scores[:3]) == scores[2]) + (max(scores[3:]) == scores[3])
    assert (int(parts["accuracy_choice"][0]), parts["accuracy_choice"][1]) == (hits, 2)


def test_the_order_of_choices_does_not_matter():
    net, given = model(), batch(choice=torch.tensor([2, 0]))
    first = pick(net, given)[0]
    turned = torch.tensor([2, 0, 1, 3, 5, 4])
    moved = {name: getattr(given, name)[turned] for name in ("input_ids", "valid", "prompt", "image_slot")}
    again = Batch(**moved, visual=given.visual, owner=given.owner, choices=3, targets={"choice": torch.tensor([0, 0])})
    assert pick(net, again)[0].item() == pytest.approx(first.item(), rel=1e-5)


def test_everything_learns():
    net = model()
    pick(net, batch(choice=torch.tensor([2, 0])))[0].backward()
    still = {name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0}
    assert still <= {"heads.choice.classes.bias"}  # what is added to all choices alike changes nothing


def test_what_it_lacks_is_told():
    right = {"choice": torch.tensor([2, 0])}
    with pytest.raises(InputError, match="names no right choice"):
        pick(model(), batch())
    with pytest.raises(InputError, match="no choices to pick from"):
        pick(model(), batch(choices=0, **right))
    with pytest.raises(InputError, match="tells 2 scores of a choice, and one is wanted"):
        pick(model(labels=2), batch(**right))
    with pytest.raises(InputError, match="no head 'answer' but choice"):
        pick(model(), batch(**right), head="answer")
