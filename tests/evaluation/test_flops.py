import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveal.core.example import Example
from foveal.evaluation.flops import Flops, counting
from foveal.layers.linear import Linear
from foveal.models.budget import budgeted
from foveal.training.objectives.next_token import next_token
from tests.tiny import tiny_run

WORDS = ["what is it", "a fox in the top left of it"]


@pytest.fixture
def plain(monkeypatch):
    """Only what torch's own counter knows: no oneDNN, no attention kernel of the processor."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.fixture
def read(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    run = tiny_run(WORDS)
    content = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    said = {"role": "assistant", "content": [{"type": "text", "text": "a fox"}]}
    example = Example(id="1", images=(str(tmp_path / "a.png"),), messages=({"role": "user", "content": content}, said))
    return run, example


@pytest.fixture
def model_and_batch(read):
    run, example = read
    return run.model, run.processor.training([example], plan=run.model.plan)


def of(model, work):
    with counting(model) as flops:
        work()
    return dict(flops.parts)


def test_forward_is_what_torch_counts(model_and_batch, plain):
    model, batch = model_and_batch
    with torch.no_grad():
        with FlopCounterMode(display=False) as theirs:
            model(batch)
        ours = of(model, lambda: model(batch))
    assert sum(ours.values()) == theirs.get_total_flops() > 0
    by_part = theirs.get_flop_counts()
    for part in ("vision", "connector", "head"):
        assert ours[part] == sum(by_part[f"Causal.{part}"].values())
    assert set(ours) == {"vision", "connector", "language", "head"}


def test_backward_is_what_torch_counts(model_and_batch, plain):
    model, batch = model_and_batch
    model.train()
    with FlopCounterMode(display=False) as theirs:
        next_token(model, batch)[0].backward()
    ours = of(model, lambda: next_token(model, batch)[0].backward())
    assert sum(ours.values()) == theirs.get_total_flops()
    assert ours["backward"] > sum(count for part, count in ours.items() if part != "backward")


def test_faster_kernels_do_the_same_work(model_and_batch, plain):
    model, batch = model_and_batch
    slow = of(model, lambda: next_token(model, batch)[0].backward())
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        fast = of(model, lambda: next_token(model, batch)[0].backward())
    assert {part: count for part, count in fast.items() if part != "backward"} == {
        part: count for part, count in slow.items() if part != "backward"
    }
    assert fast["backward"] >= slow["backward"]  # scores are computed once more there
    torch.backends.mkldnn.enabled = True
    with torch.inference_mode():
        assert of(model, lambda: model(batch)) == of(model, lambda: model(batch))


@pytest.mark.parametrize("grad", [True, False])
def test_a_linear_map_by_any_kernel(grad, monkeypatch):
    from foveal.layers import linear as room

    layer = nn.ModuleDict({"language": room.Linear(512, 256)}).requires_grad_(grad)
    hidden = torch.randn(2, 10, 512)
    for amd in (False, torch.backends.mkldnn.is_available()):
        monkeypatch.setattr(room, "amd", lambda amd=amd: amd)
        found = of(layer, lambda: layer["language"](hidden).sum().backward() if grad else layer["language"](hidden))
        assert found["language"] == 2 * 20 * 512 * 256
        assert not grad or found["backward"] == 2 * 20 * 512 * 256  # the weight's gradient alone


def test_what_a_budget_saves_and_costs(read):
    run, example = read
    with torch.inference_mode():
        whole = of(run.model, lambda: run.model(run.processor.training([example], plan=run.model.plan)))
        view = budgeted(run.model, 4)
        small = of(view, lambda: view(run.processor.training([example], plan=view.plan)))
    assert small["language"] < whole["language"] and small["vision"] == whole["vision"]
    assert small["relevance"] > 0 and "relevance" not in whole
    assert "between" not in view._modules["allocator"].__dict__


def test_a_budget_that_is_drawn_for_a_batch_is_spent_while_it_is_counted(read):
    run, example = read
    model = budgeted(run.model, 16)
    batch = run.processor.training([example], plan=run.model.plan)
    with counting(model) as flops:
        left = model.spent(batch, None, 3)
    assert (left.image_slot >= 0).sum() == 3
    assert flops.parts["relevance"] > 0 and "between" not in vars(model.allocator)
    assert type(model.allocator) is type(budgeted(run.model, 16).allocator)


@pytest.mark.parametrize("tokens", [1, 2, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_half_precision_does_the_same_work(tokens, bias):
    counts = []
    for dtype in (torch.float32, torch.bfloat16):
        layer, hidden = Linear(512, 2048, bias=bias).to(dtype), torch.randn(1, tokens, 512).to(dtype)
        with torch.no_grad(), Flops() as counted:
            layer(hidden)
        counts.append(counted.total)
    assert counts == [2 * tokens * 512 * 2048] * 2
