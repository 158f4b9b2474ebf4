import pytest
import torch

from foveal.core.errors import InputError
from foveal.layers.mlp import FeedForward, GatedFeedForward, activation_of, quick_gelu


def test_gate_times_up():
    torch.manual_seed(0)
    block = GatedFeedForward(width=4, inner=6)
    hidden = torch.randn(3, 4)
    gate, up = hidden @ block.gate.weight.T, hidden @ block.up.weight.T
    expected = (gate * torch.sigmoid(gate) * up) @ block.down.weight.T
    torch.testing.assert_close(block(hidden), expected)


def test_activation_between_two_maps():
    block = FeedForward(width=4, inner=6, activation="relu")
    hidden = torch.randn(3, 4)
    torch.testing.assert_close(block(hidden), block.down(block.up(hidden).clamp(min=0)))


@pytest.mark.parametrize("name", ["gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"])
def test_activations_equal_their_references(name):
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(activation_of(name)(x), ACT2FN[name](x), atol=1e-6, rtol=1e-6)


def test_an_unknown_activation_has_a_hint():
    with pytest.raises(InputError, match="did you mean 'gelu'"):
        activation_of("gelus")


@pytest.mark.parametrize(
    "block", [FeedForward(width=4, inner=6, activation="gelu"), GatedFeedForward(width=4, inner=6)]
)
def test_a_long_prompt_is_fed_in_pieces_and_means_the_same(block):
    hidden, seen = torch.randn(2, 1200, 4), []
    watched = block.down.register_forward_pre_hook(lambda module, given: seen.append(given[0].numel() // (2 * 6)))
    whole = block(hidden)
    with torch.inference_mode():
        pieces = block(hidden)
    watched.remove()
    assert seen == [1200, 448, 448, 304]
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_is_multiplied_in_its_own_place_and_means_the_same(dtype):
    block, hidden = GatedFeedForward(width=4, inner=6).to(dtype), torch.randn(2, 5, 4).to(dtype)
    kept = []
    block.gate.register_forward_hook(lambda module, given, made: kept.append((made, made.clone())))
    whole = block(hidden)
    with torch.inference_mode():
        torch.testing.assert_close(block(hidden), whole)
    assert all(torch.equal(*pair) for pair in kept)  # what a hook was given stays as it was
    whole.sum().backward()


def test_a_gate_of_another_precision_is_multiplied_in_the_wider_one():
    class Half(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner.bfloat16()

        def forward(self, hidden):
            return self.inner(hidden.bfloat16())

    block, hidden = GatedFeedForward(width=4, inner=6), torch.randn(2, 5, 4)
    block.gate = Half(block.gate)
    with torch.no_grad():
        made = block(hidden)
    torch.testing.assert_close(made, block(hidden).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whoever_listens_within_a_block_hears_rows_of_tokens(dtype):
    torch.manual_seed(0)
    block, heard = FeedForward(width=32, inner=64, activation="relu").to(dtype), []

    def steer(module, given, made):
        heard.append(made.shape)
        return made + 5 * (torch.arange(made.shape[1]) == made.shape[1] - 1)[:, None].to(made)

    block.down.register_forward_hook(steer)
    hidden = torch.randn(2, 1200, 32).to(dtype)
    with torch.no_grad():
        pieces = block(hidden)
    assert len(heard) > 1 and all(shape[0] == 2 and shape[2] == 32 for shape in heard)
    assert ((pieces - block(hidden)).abs().amax(-1) > 1).sum() == 2 * (len(heard) - 2)  # all but the last are others


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 1200, 4), (2, 0, 4)])
@torch.no_grad()
def test_no_rows_and_no_tokens_are_fed_too(dtype, shape):
    block = FeedForward(width=4, inner=6, activation="gelu").to(dtype)
    assert block(torch.zeros(shape, dtype=dtype)).shape == shape


def test_quick_gelu_leaves_what_it_reads():
    x = torch.randn(7)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(quick_gelu(x), x * torch.sigmoid(1.702 * x))
    assert torch.equal(x, before)


def test_off_the_cpu_a_long_prompt_is_fed_at_once():
    block, seen = FeedForward(width=4, inner=6, activation="gelu").to("meta"), []
    block.down.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    with torch.inference_mode():
        block(torch.empty(2, 1200, 4, device="meta"))
    assert seen == [1200]
