import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from foveal.core.kept import kept


@pytest.fixture
def line():
    made = []

    @kept(2)
    def line(length):
        made.append(length)
        return torch.arange(length) / 2.0

    return line, made


def test_it_is_made_once_for_each_of_the_latest_arguments(line):
    line, made = line
    assert line(3) is line(3) and line(4) is not line(3) and made == [3, 4]
    line(5)
    line(4)
    assert made == [3, 4, 5, 4]


def test_who_only_looked_first_leaves_tensors_to_learn_with(line):
    line, _ = line
    with torch.inference_mode():
        assert not line(3).is_inference()
    weight = torch.ones(3, requires_grad=True)
    (weight * line(3)).sum().backward()
    assert weight.grad.tolist() == [0.0, 0.5, 1.0]


def test_a_device_or_a_mode_of_the_first_caller_is_not_kept(line):
    line, made = line
    with torch.device("meta"):
        assert line(3).tolist() == [0.0, 0.5, 1.0]
    with FakeTensorMode():
        line(4)
    assert line(4).tolist() == [0.0, 0.5, 1.0, 1.5] and made == [3, 4, 4]


def test_what_a_compiled_function_asks_for_is_not_kept(line):
    line, _ = line
    asked = torch.compile(lambda x: x + line(3), backend="eager", fullgraph=True)
    assert asked(torch.ones(3)).tolist() == line(3).add(1).tolist()
    assert type(line(3)) is torch.Tensor
